// What the tests in C share: whether a write to an address faults.
#ifndef FAULT_H
#define FAULT_H

#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

static sigjmp_buf before_fault;

static void on_fault(int signal)
{
    (void)signal;
    siglongjmp(before_fault, 1);
}

static bool faults(volatile char *at)
{
    struct sigaction action = { .sa_handler = on_fault }, was;
    sigaction(SIGSEGV, &action, &was);
    bool faulted = sigsetjmp(before_fault, 1);
    if (!faulted)
        *at = 1;
    sigaction(SIGSEGV, &was, NULL);
    return faulted;
}

#endif
