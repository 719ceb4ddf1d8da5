// SPDX-License-Identifier: MIT OR Apache-2.0
// Numbers that threads change at once.
#ifndef VMALLOC_LINUX_ATOMIC_H
#define VMALLOC_LINUX_ATOMIC_H

typedef struct {
    int counter;
} atomic_t;

#define ATOMIC_INIT(value) { value }
#define atomic_read(at) __atomic_load_n(&(at)->counter, __ATOMIC_RELAXED)
#define atomic_set(at, value) __atomic_store_n(&(at)->counter, value, __ATOMIC_RELAXED)
#define atomic_add(n, at) ((void)__atomic_fetch_add(&(at)->counter, n, __ATOMIC_RELAXED))
#define atomic_sub(n, at) ((void)__atomic_fetch_sub(&(at)->counter, n, __ATOMIC_RELAXED))
#define atomic_inc(at) atomic_add(1, at)
#define atomic_dec(at) atomic_sub(1, at)
#define atomic_inc_return(at) __atomic_add_fetch(&(at)->counter, 1, __ATOMIC_SEQ_CST)
#define atomic_dec_return(at) __atomic_sub_fetch(&(at)->counter, 1, __ATOMIC_SEQ_CST)
#define atomic_dec_and_test(at) (atomic_dec_return(at) == 0)

#endif
