// SPDX-License-Identifier: MIT OR Apache-2.0
// What all modules use.
#ifndef VMALLOC_LINUX_KERNEL_H
#define VMALLOC_LINUX_KERNEL_H

#if __has_include_next(<linux/kernel.h>)
#include_next <linux/kernel.h>
#endif
#include <errno.h>
#include <limits.h>
#include <linux/bug.h>
#include <linux/printk.h>
#include <linux/types.h>
#include <string.h>

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#ifndef DIV_ROUND_UP
#define DIV_ROUND_UP(n, by) (((n) + (by) - 1) / (by))
#endif
#define round_up(n, to) ((((n) - 1) | ((__typeof__(n))(to) - 1)) + 1)
#define round_down(n, to) ((n) & ~((__typeof__(n))(to) - 1))
#define roundup(n, to) ((((n) + (to) - 1) / (to)) * (to))
#define rounddown(n, to) ((n) - (n) % (to))
#define min(a, b) (__extension__({ __typeof__(a) __a = (a); __typeof__(b) __b = (b); __a < __b ? __a : __b; }))
#define max(a, b) (__extension__({ __typeof__(a) __a = (a); __typeof__(b) __b = (b); __a > __b ? __a : __b; }))
#define min_t(type, a, b) min((type)(a), (type)(b))
#define max_t(type, a, b) max((type)(a), (type)(b))
#define clamp(n, low, high) min((__typeof__(n))max(n, low), high)
#define swap(a, b) do { __typeof__(a) __was = (a); (a) = (b); (b) = __was; } while (0)
#define container_of(at, type, member) ((type *)((char *)(at) - offsetof(type, member)))

// The number of the highest bit that is set, from 1; 0 = none is.
static inline int fls(unsigned int n)
{
    return n ? 32 - __builtin_clz(n) : 0;
}

#endif
