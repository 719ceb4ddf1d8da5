// SPDX-License-Identifier: MIT OR Apache-2.0
// Random numbers.
#ifndef VMALLOC_LINUX_RANDOM_H
#define VMALLOC_LINUX_RANDOM_H

#if __has_include_next(<linux/random.h>)
#include_next <linux/random.h>
#endif
#include <linux/types.h>
#include <sys/random.h>

static inline void get_random_bytes(void *into, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        ssize_t more = getrandom((char *)into + at, bytes - at, 0);
        at += more > 0 ? (size_t)more : 0;
    }
}

static inline u32 get_random_u32(void)
{
    u32 n;
    get_random_bytes(&n, sizeof n);
    return n;
}

// Below `end`, which is not 0.
static inline u32 get_random_u32_below(u32 end)
{
    return (u32)((u64)get_random_u32() * end >> 32);
}

static inline u32 get_random_u32_inclusive(u32 least, u32 most)
{
    return least + get_random_u32_below(most - least + 1);
}

#endif
