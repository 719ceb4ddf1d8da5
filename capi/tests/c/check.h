// What the tests in C share: a check that says where it failed, and tests that run in their order.
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(holds)                                                                       \
    do {                                                                                   \
        if (!(holds)) {                                                                    \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, __func__, #holds);      \
            exit(1);                                                                       \
        }                                                                                  \
    } while (0)

#define RUN(test) (printf("%s\n", #test), fflush(stdout), test())

#endif
