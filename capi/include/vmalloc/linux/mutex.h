// SPDX-License-Identifier: MIT OR Apache-2.0
// Locks that threads sleep for.
#ifndef VMALLOC_LINUX_MUTEX_H
#define VMALLOC_LINUX_MUTEX_H

#include <pthread.h>
#include <stdbool.h>

struct mutex {
    pthread_mutex_t lock;
};

#define DEFINE_MUTEX(name) struct mutex name = { PTHREAD_MUTEX_INITIALIZER }
#define mutex_init(mutex) ((void)pthread_mutex_init(&(mutex)->lock, NULL))
#define mutex_lock(mutex) ((void)pthread_mutex_lock(&(mutex)->lock))
#define mutex_trylock(mutex) (!pthread_mutex_trylock(&(mutex)->lock))
#define mutex_unlock(mutex) ((void)pthread_mutex_unlock(&(mutex)->lock))

#endif
