// SPDX-License-Identifier: MIT OR Apache-2.0
// Events that threads wait for.
#ifndef VMALLOC_LINUX_COMPLETION_H
#define VMALLOC_LINUX_COMPLETION_H

#include <limits.h>
#include <pthread.h>

struct completion {
    unsigned int done;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

#define COMPLETION_INITIALIZER { 0, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER }
#define DECLARE_COMPLETION(name) struct completion name = COMPLETION_INITIALIZER

static inline void init_completion(struct completion *it)
{
    it->done = 0;
    pthread_mutex_init(&it->lock, NULL);
    pthread_cond_init(&it->changed, NULL);
}

static inline void wait_for_completion(struct completion *it)
{
    pthread_mutex_lock(&it->lock);
    while (!it->done)
        pthread_cond_wait(&it->changed, &it->lock);
    if (it->done != UINT_MAX)
        it->done--;
    pthread_mutex_unlock(&it->lock);
}

// Lets one waiter go on.
static inline void complete(struct completion *it)
{
    pthread_mutex_lock(&it->lock);
    if (it->done != UINT_MAX)
        it->done++;
    pthread_cond_signal(&it->changed);
    pthread_mutex_unlock(&it->lock);
}

// Lets all go on, later ones too.
static inline void complete_all(struct completion *it)
{
    pthread_mutex_lock(&it->lock);
    it->done = UINT_MAX;
    pthread_cond_broadcast(&it->changed);
    pthread_mutex_unlock(&it->lock);
}

#endif
