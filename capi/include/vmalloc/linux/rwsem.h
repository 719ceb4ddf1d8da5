// SPDX-License-Identifier: MIT OR Apache-2.0
// Locks that many readers have, or one writer.
#ifndef VMALLOC_LINUX_RWSEM_H
#define VMALLOC_LINUX_RWSEM_H

#include <pthread.h>

struct rw_semaphore {
    pthread_rwlock_t lock;
};

#define DECLARE_RWSEM(name) struct rw_semaphore name = { PTHREAD_RWLOCK_INITIALIZER }
#define init_rwsem(sem) ((void)pthread_rwlock_init(&(sem)->lock, NULL))
#define down_read(sem) ((void)pthread_rwlock_rdlock(&(sem)->lock))
#define up_read(sem) ((void)pthread_rwlock_unlock(&(sem)->lock))
#define down_write(sem) ((void)pthread_rwlock_wrlock(&(sem)->lock))
#define up_write(sem) ((void)pthread_rwlock_unlock(&(sem)->lock))

#endif
