// SPDX-License-Identifier: MIT OR Apache-2.0
// Errors as pointers.
#ifndef VMALLOC_LINUX_ERR_H
#define VMALLOC_LINUX_ERR_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

#define MAX_ERRNO 4095

static inline void *ERR_PTR(long error)
{
    return (void *)error;
}

static inline long PTR_ERR(const void *at)
{
    return (long)at;
}

static inline bool IS_ERR(const void *at)
{
    return (unsigned long)at >= (unsigned long)-MAX_ERRNO;
}

static inline bool IS_ERR_OR_NULL(const void *at)
{
    return !at || IS_ERR(at);
}

#endif
