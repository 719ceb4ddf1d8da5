// SPDX-License-Identifier: MIT OR Apache-2.0
// Who runs.
#ifndef VMALLOC_LINUX_SCHED_H
#define VMALLOC_LINUX_SCHED_H

#if __has_include_next(<linux/sched.h>)
#include_next <linux/sched.h>
#endif

// Of the C library; its header and the one of Linux do not go together everywhere.
extern int sched_yield(void);

static inline void schedule(void)
{
    sched_yield();
}

// A thread may lose its processor at any time, so there is nothing to do.
static inline int cond_resched(void)
{
    return 0;
}

#endif
