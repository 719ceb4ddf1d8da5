// SPDX-License-Identifier: MIT OR Apache-2.0
// Waiting for a while.
#ifndef VMALLOC_LINUX_DELAY_H
#define VMALLOC_LINUX_DELAY_H

#include <errno.h>
#include <time.h>

static inline void __vmalloc_sleep(long long ns)
{
    struct timespec left = { ns / 1000000000, ns % 1000000000 };
    while (nanosleep(&left, &left) && errno == EINTR)
        ;
}

static inline void msleep(unsigned int ms)
{
    __vmalloc_sleep(ms * 1000000LL);
}

static inline void usleep_range(unsigned long least, unsigned long most)
{
    (void)most;
    __vmalloc_sleep((long long)least * 1000);
}

#endif
