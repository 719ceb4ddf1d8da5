// SPDX-License-Identifier: MIT OR Apache-2.0
//
// vmalloc for programs in C: allocators of virtually contiguous memory, on page frames of their own.
// Written by cbindgen from the sources.
//
// Where a call is refused, a pointer is null and an int is negative (enum vmalloc_error). Nothing has
// changed then, and vmalloc_last_message() says why, with the numbers of that call.
//
// Any thread may make any call, and free any area. Signal handlers may not.
//
// What a caller promises:
// - CP1: an instance is null, or vmalloc_new returned it, and nobody gives it to vmalloc_delete before
//   all other calls on it have returned.
// - CP2: a pointer to a structure, an array or a text is null, or leads to as much of it as the call
//   reads or writes, which nobody else writes meanwhile.
// - CP3: nobody uses the area or the mapping any more.
// - CP4: the caller holds each frame until its mapping has ended, and gives up only what it holds.
// - CP5: a function that is handed over may be called with what is handed over with it, by any thread
//   that makes a call, and it returns.


#ifndef VMALLOC_H
#define VMALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The address of the code that has it: who allocates and frees, for listings and vmalloc_whatis.
#if defined(__GNUC__) && defined(__x86_64__)
#define VMALLOC_HERE \
    (__extension__({ const void *here; __asm__ volatile("lea 0(%%rip), %0" : "=r"(here)); here; }))
#elif defined(__GNUC__)
#define VMALLOC_HERE (__extension__({ __label__ here; here: (const void *)&&here; }))
#else
#define VMALLOC_HERE NULL
#endif


// The bytes are 0.
#define VMALLOC_ZERO 1

// A stack: its bytes are 0, and the page below it is never mapped.
#define VMALLOC_STACK 2

// No unmapped page follows.
#define VMALLOC_NO_GUARD 4

// The call waits for no flush.
#define VMALLOC_NOWAIT 8

// The log is not told where the request is refused.
#define VMALLOC_NOWARN 16

// Why a call was refused. Nothing has changed then.
enum vmalloc_error {
    // It was not refused.
    VMALLOC_ERROR_OK = 0,
    // No area holds this address.
    VMALLOC_ERROR_NOENT = -2,
    // Linux refused; the text has its number.
    VMALLOC_ERROR_IO = -5,
    // More than there is memory, or addresses, in all.
    VMALLOC_ERROR_TOO_BIG = -7,
    // A flush would give back what is short, and the caller must not wait for it.
    VMALLOC_ERROR_AGAIN = -11,
    // No memory.
    VMALLOC_ERROR_NOMEM = -12,
    // The page is in use by somebody else.
    VMALLOC_ERROR_BUSY = -16,
    // An argument that can never be right.
    VMALLOC_ERROR_INVAL = -22,
    // No gap in the addresses is wide enough.
    VMALLOC_ERROR_NOSPC = -28,
    // Not from here: in the middle of another call, or where nobody may wait.
    VMALLOC_ERROR_DEADLK = -35,
    // The area was freed before.
    VMALLOC_ERROR_ALREADY = -114,
    // A rule is broken: memory of the instance was overwritten, or this library has a fault.
    VMALLOC_ERROR_UNCLEAN = -117,
    // The process has as many mappings as it may have (`vm.max_map_count`).
    VMALLOC_ERROR_DQUOT = -122,
    // This library has a fault, and stopped in the middle of a call: the instance serves no more.
    VMALLOC_ERROR_NOTRECOVERABLE = -131,
};

// When freed areas become unreachable.
enum vmalloc_policy {
    // When nobody has needed an area of that size for a while (`vmalloc_tick`). The fast one.
    VMALLOC_POLICY_KEEP = 0,
    // With one flush for many frees.
    VMALLOC_POLICY_UNMAP = 1,
    // At once: a use after the free faults.
    VMALLOC_POLICY_STRICT = 2,
};

// What an area is for.
enum vmalloc_kind {
    // Memory of its own.
    VMALLOC_KIND_MEMORY = 0,
    // A stack.
    VMALLOC_KIND_STACK = 1,
    // Frames that are somebody's.
    VMALLOC_KIND_VMAP = 2,
    // Frames that were handed over to it.
    VMALLOC_KIND_VMAP_OWNED = 3,
    // Frames, mapped for a short time.
    VMALLOC_KIND_MAP_RAM = 4,
    // A device.
    VMALLOC_KIND_IOREMAP = 5,
    // Addresses.
    VMALLOC_KIND_RESERVED = 6,
    // Addresses, of which some pages have frames of the area's own.
    VMALLOC_KIND_SPARSE = 7,
};

// What an address may be.
enum vmalloc_answer {
    // No address of the instance.
    VMALLOC_ANSWER_NOT_OURS = 0,
    // Not in use.
    VMALLOC_ANSWER_FREE = 1,
    // In an area that is just being made or freed.
    VMALLOC_ANSWER_CHANGING = 2,
    // In `area`, `offset` bytes behind its start.
    VMALLOC_ANSWER_INSIDE = 3,
    // In `area`, which was freed.
    VMALLOC_ANSWER_FREED = 4,
    // In an unmapped page, `offset` bytes behind the end of `area` and `short_of` bytes below `above`,
    // where there are such areas.
    VMALLOC_ANSWER_GUARD = 5,
};

// An allocator with memory and addresses of its own.
struct vmalloc_instance;

// Takes a line of the log, which ends with a zero and has no end of line. Any thread that makes a
// call may call it, several at once. It makes no call on the instance.
typedef void (*vmalloc_log)(void *arg, const char *line);

// What an instance is to have. 0 is the usual choice for each.
struct vmalloc_options {
    // Bytes of memory, which Linux provides when they are first used; 0 = 1 GiB.
    size_t memory;
    // Bytes of addresses; 0 = 64 GiB.
    size_t addresses;
    // CPU indices, which threads share, 1 to 64; 0 = one a processor.
    uint32_t cpus;
    // One of `enum vmalloc_policy`.
    int policy;
    // Whether areas go into the lowest hole that fits, not by size into slots of each CPU.
    bool lowest;
    // Who takes the log; null = the standard error output.
    vmalloc_log log;
    // Handed to `log`.
    void *log_arg;
};

// A request for an area. 0 is the usual choice for all but the size.
struct vmalloc_request {
    // Bytes. They are rounded up to pages.
    size_t size;
    // The start is a multiple of so many bytes, a power of two; 0 = of a page.
    size_t align;
    // `VMALLOC_ZERO` and its siblings.
    uint32_t flags;
    // Who asks, for listings: `VMALLOC_HERE`, or another address of code, or null.
    const void *by;
};

// An area, as it was a moment ago.
struct vmalloc_area {
    // Its first byte; null = there is no area.
    const void *start;
    // The bytes that were asked for.
    size_t size;
    // Its pages, without the guard.
    size_t pages;
    // One of `enum vmalloc_kind`.
    int kind;
    // Whether an unmapped page follows.
    bool guard;
    // Who asked for it; null = nobody said.
    const void *by;
    // Who freed it; null = it lives, or nobody said.
    const void *freed_by;
};

// What an address is.
struct vmalloc_what {
    // One of `enum vmalloc_answer`.
    int answer;
    // The area that it is about.
    struct vmalloc_area area;
    // Bytes behind the start, or the end, of that area.
    size_t offset;
    // The area above a guard.
    struct vmalloc_area above;
    // Bytes to that area.
    size_t short_of;
};

// Takes a piece of a text, without a zero at its end; not 0 = no more of it is wanted.
typedef int (*vmalloc_write)(void *arg, const char *text, size_t bytes);

// Sums of an instance.
struct vmalloc_sums {
    // Areas that live.
    size_t areas;
    // Their pages, without guards.
    size_t pages;
    // Pages that were freed and wait for a flush.
    size_t waiting_pages;
    // Pages of freed areas that are kept for the next ones of their size.
    size_t cached_pages;
    // Frames of tables.
    size_t table_frames;
    // Frames of bookkeeping.
    size_t bookkeeping_frames;
    // Frames that nobody has.
    size_t free_frames;
    // Mappings of the process that are this instance's.
    size_t mappings;
    // The most that it may have.
    size_t mappings_allowed;
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The number of the last error of this thread; 0 = it had none.
int vmalloc_last_error(void);

// The text of the last error of this thread, with the numbers of the call that was refused. It is
// good until another call of this thread is refused.
const char *vmalloc_last_message(void);

// What an error number means, as a text that lasts. What was refused says `vmalloc_last_message`.
const char *vmalloc_strerror(int number);

// An instance with these options; null = the usual ones. Null where it cannot be had.
//
// # Safety
// CP2, CP5.
struct vmalloc_instance *vmalloc_new(const struct vmalloc_options *options);

// Ends an instance: its areas are gone then. Null is nothing.
//
// # Safety
// CP1; and nobody uses its areas any more.
void vmalloc_delete(struct vmalloc_instance *vm);

// Gives back what was freed and nobody has needed for a while. Call it now and then, from any
// thread: each call does a bounded piece of work.
//
// # Safety
// CP1.
int vmalloc_tick(struct vmalloc_instance *vm);

// Makes all freed areas unreachable, and what they had usable again. Returns the pages.
//
// # Safety
// CP1.
size_t vmalloc_purge(struct vmalloc_instance *vm);

// An area of `size` bytes for `by`, whose bytes may be anything. Null where it was refused.
//
// # Safety
// CP1.
void *vmalloc_alloc(struct vmalloc_instance *vm, size_t size, const void *by);

// An area as `request` says. Null where it was refused.
//
// # Safety
// CP1, CP2.
void *vmalloc_alloc_with(struct vmalloc_instance *vm, const struct vmalloc_request *request);

// Frees an area, on behalf of `by`. Null is nothing. Returns 0, or why it was refused.
//
// # Safety
// CP1, CP3.
int vmalloc_free(struct vmalloc_instance *vm, void *at, const void *by);

// Gives the pages beyond the first `size` bytes of an area back: it starts where it did. Returns 0,
// or why it was refused.
//
// # Safety
// CP1; CP3, for these pages; and nobody else frees, shrinks or grows the area meanwhile.
int vmalloc_shrink(struct vmalloc_instance *vm, void *at, size_t size);

// Gives an area more pages behind its last one, so that it has `size` bytes: it starts where it
// did. Returns 0, or why it was refused: `VMALLOC_ERROR_NOSPC` where too few pages behind it are free.
//
// # Safety
// CP1; and nobody else frees, shrinks or grows the area meanwhile.
int vmalloc_grow(struct vmalloc_instance *vm,
                 void *at,
                 size_t size);

// Takes `count` frames, whose bytes may be anything, and writes their numbers to `frames`. Returns 0,
// or why it was refused: none is taken then.
//
// # Safety
// CP1, CP2.
int vmalloc_frames_alloc(struct vmalloc_instance *vm,
                         uint64_t *frames,
                         size_t count);

// Gives up one hold on each of these frames. Returns 0, or why it was refused: a number that is no
// frame which is held. None is given up then.
//
// # Safety
// CP1, CP2, CP4.
int vmalloc_frames_free(struct vmalloc_instance *vm, const uint64_t *frames, size_t count);

// Writes the number of the frame behind an address of an area to `frame`, and holds it:
// `vmalloc_frames_free` gives the hold up. Returns 0, or why it was refused.
//
// # Safety
// CP1, CP2.
int vmalloc_frame_hold(struct vmalloc_instance *vm, const void *at, uint64_t *frame);

// Maps `count` frames side by side, for `by`. They stay their holder's, who may give them up: they
// are free when their last mapping has ended as well. Null where it was refused.
//
// # Safety
// CP1, CP2, CP4.
void *vmalloc_vmap(struct vmalloc_instance *vm,
                   const uint64_t *frames,
                   size_t count,
                   const void *by);

// Unmaps what `vmalloc_vmap` mapped. Returns 0, or why it was refused.
//
// # Safety
// CP1, CP3.
int vmalloc_vunmap(struct vmalloc_instance *vm, void *at);

// Maps `count` frames side by side for a short time, without a guard: the cheap one. Null where it
// was refused.
//
// # Safety
// CP1, CP2; CP4: they are held until `vmalloc_unmap_ram` has returned.
void *vmalloc_map_ram(struct vmalloc_instance *vm, const uint64_t *frames, size_t count);

// Unmaps what `vmalloc_map_ram` mapped, `count` pages as then. Returns 0, or why it was refused.
//
// # Safety
// CP1, CP3.
int vmalloc_unmap_ram(struct vmalloc_instance *vm, void *at, size_t count);

// Writes to `into` what `at` is. Any address may be asked about. Takes no lock and no memory. Returns
// 0, or why it was refused.
//
// # Safety
// CP1, CP2.
int vmalloc_whatis(struct vmalloc_instance *vm,
                   const void *at,
                   struct vmalloc_what *into);

// Writes a sentence about `at` into `room`, which has `bytes` bytes: as much as fits, and a zero.
// Returns the bytes of the whole sentence, without the zero. Callers are code addresses in it:
// `vmalloc_symbol` tells more of one.
//
// # Safety
// CP1, CP2.
size_t vmalloc_whatis_text(struct vmalloc_instance *vm, const void *at, char *room, size_t bytes);

// Writes into `room` where a code address lies, as the listing has it. Returns the bytes of all of
// it, without the zero at the end.
//
// # Safety
// CP2.
size_t vmalloc_symbol(const void *code, char *room, size_t bytes);

// Hands the listing of all areas to `write`, in pieces: in the form of `/proc/vmallocinfo`, by
// address, and then what waits for a flush. Returns 0, or what `write` returned last.
//
// # Safety
// CP1, CP5.
int vmalloc_list(struct vmalloc_instance *vm, vmalloc_write write, void *arg);

// Checks every rule on everything. Call it while nobody else makes a call. Returns 0, or
// `VMALLOC_ERROR_UNCLEAN`: `vmalloc_last_message` names the rule and the place then.
//
// # Safety
// CP1.
int vmalloc_check(struct vmalloc_instance *vm);

// Writes the sums of an instance to `into`. Returns 0, or why it was refused.
//
// # Safety
// CP1, CP2.
int vmalloc_stats(struct vmalloc_instance *vm, struct vmalloc_sums *into);

// Begins the traditional subsystem with these options. Who leaves this call out has the usual ones.
// Returns 0, or why it was refused: `VMALLOC_ERROR_BUSY` where it has begun before.
//
// # Safety
// CP2, CP5.
int vmalloc_kernel_start(const struct vmalloc_options *options);

// The instance under the traditional subsystem, for questions. It is nobody's to delete. Null where it
// cannot be had.
struct vmalloc_instance *vmalloc_kernel_instance(void);

// An area of `size` bytes for `by`, whose bytes may be anything. Null where it was refused.
//
// # Safety
// CP1.
void *vmalloc_alloc(struct vmalloc_instance *vm, size_t size, const void *by);

// An area as `request` says. Null where it was refused.
//
// # Safety
// CP1, CP2.
void *vmalloc_alloc_with(struct vmalloc_instance *vm, const struct vmalloc_request *request);

// Frees an area, on behalf of `by`. Null is nothing. Returns 0, or why it was refused.
//
// # Safety
// CP1, CP3.
int vmalloc_free(struct vmalloc_instance *vm, void *at, const void *by);

// Gives the pages beyond the first `size` bytes of an area back: it starts where it did. Returns 0,
// or why it was refused.
//
// # Safety
// CP1; CP3, for these pages; and nobody else frees, shrinks or grows the area meanwhile.
int vmalloc_shrink(struct vmalloc_instance *vm, void *at, size_t size);

// Gives an area more pages behind its last one, so that it has `size` bytes: it starts where it
// did. Returns 0, or why it was refused: `VMALLOC_ERROR_NOSPC` where too few pages behind it are free.
//
// # Safety
// CP1; and nobody else frees, shrinks or grows the area meanwhile.
int vmalloc_grow(struct vmalloc_instance *vm,
                 void *at,
                 size_t size);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VMALLOC_H */
