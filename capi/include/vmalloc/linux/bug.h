// SPDX-License-Identifier: MIT OR Apache-2.0
// What must not be.
#ifndef VMALLOC_LINUX_BUG_H
#define VMALLOC_LINUX_BUG_H

#include <linux/compiler.h>
#include <stdio.h>
#include <stdlib.h>

#define BUG() (fprintf(stderr, "kernel BUG at %s:%d!\n", __FILE__, __LINE__), abort())
#define BUG_ON(wrong) do { if (unlikely(wrong)) BUG(); } while (0)
#define WARN_ON(wrong)                                                                             \
    (__extension__({                                                                               \
        int __wrong = !!(wrong);                                                                   \
        if (unlikely(__wrong))                                                                     \
            fprintf(stderr, "WARNING: at %s:%d %s()\n", __FILE__, __LINE__, __func__);             \
        __wrong;                                                                                   \
    }))

#endif
