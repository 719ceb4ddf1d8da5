// SPDX-License-Identifier: MIT OR Apache-2.0
// Threads of a module.
#ifndef VMALLOC_LINUX_KTHREAD_H
#define VMALLOC_LINUX_KTHREAD_H

#include <linux/err.h>
#include <linux/sched.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

struct task_struct {
    pthread_t thread;
    int (*run)(void *data);
    void *data;
    int result;
    bool should_stop;
    char comm[64];
};

// One for the program, however many of its files include this.
__attribute__((weak)) __thread struct task_struct *vmalloc_current_kthread;

__attribute__((unused)) static void *__vmalloc_kthread(void *task)
{
    vmalloc_current_kthread = task;
    vmalloc_current_kthread->result = vmalloc_current_kthread->run(vmalloc_current_kthread->data);
    return NULL;
}

// Starts a thread that runs `run`. kthread_stop() has to be called for it.
__attribute__((format(printf, 3, 4), unused)) static struct task_struct *kthread_run(
    int (*run)(void *data), void *data, const char *format, ...)
{
    struct task_struct *task = calloc(1, sizeof *task);
    if (!task)
        return ERR_PTR(-ENOMEM);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(task->comm, sizeof task->comm, format, arguments);
    va_end(arguments);
    task->run = run;
    task->data = data;
    int error = pthread_create(&task->thread, NULL, __vmalloc_kthread, task);
    if (!error)
        return task;
    free(task);
    return ERR_PTR(-error);
}

static inline bool kthread_should_stop(void)
{
    return vmalloc_current_kthread && __atomic_load_n(&vmalloc_current_kthread->should_stop, __ATOMIC_ACQUIRE);
}

// Tells a thread to end, waits for its end, and returns what it returned.
static inline int kthread_stop(struct task_struct *task)
{
    __atomic_store_n(&task->should_stop, true, __ATOMIC_RELEASE);
    pthread_join(task->thread, NULL);
    int result = task->result;
    free(task);
    return result;
}

#endif
