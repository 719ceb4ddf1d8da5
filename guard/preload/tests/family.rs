//! malloc and its family return what glibc's do.

mod common;

use common::*;

/// Prints what each call returns, and the error number after it.
const CALLS: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define TELL(call) do { errno = 77; void *p = (call); printf("%s: %d, errno %d\n", #call, p != 0, errno); free(p); } while (0)
int main(void) {
    volatile size_t most = SIZE_MAX, half = SIZE_MAX / 2 + 2;
    TELL(malloc(0)); TELL(malloc(most)); TELL(malloc(half)); TELL(malloc(PTRDIFF_MAX));
    TELL(calloc(most, 2)); TELL(calloc(0, 5)); TELL(calloc(half, 1));
    TELL(realloc(0, 0)); TELL(realloc(0, most)); TELL(reallocarray(0, most, 2)); TELL(reallocarray(0, 0, 7));
    TELL(memalign(0, 10)); TELL(memalign(3, 10)); TELL(memalign(7, 0)); TELL(memalign(1ul << 40, 10));
    TELL(memalign(1ul << 63, 10)); TELL(memalign((1ul << 63) + 1, 10)); TELL(memalign(64, most - 100));
    TELL(aligned_alloc(0, 10)); TELL(aligned_alloc(1ul << 40, 10)); TELL(aligned_alloc(64, 10));
    TELL(valloc(0)); TELL(valloc(most)); TELL(pvalloc(0)); TELL(pvalloc(most)); TELL(pvalloc(5));
    size_t aligns[] = { 0, 1, 2, 4, 8, 12, 16, 24, 4096, 1ul << 40, 1ul << 62, 1ul << 63 };
    for (int n = 0; n < 12; n++) {
        void *p = (void *)5;
        errno = 77;
        int done = posix_memalign(&p, aligns[n], 10);
        printf("posix_memalign to %zu: %d, errno %d, %d\n", aligns[n], done, errno, p == (void *)5);
        if (!done) free(p);
    }
    void *p = malloc(10);
    errno = 77;
    printf("realloc to the most: %d", realloc(p, most) == 0);
    printf(", errno %d, to 0: %d, errno %d\n", errno, realloc(p, 0) == 0, errno);
    printf("usable of nothing: %zu\n", malloc_usable_size(0));
    for (size_t align = 1; align <= 1 << 22; align *= 2)
        for (size_t size = 0; size < 10000; size += 1777) {
            char *q = memalign(align, size);
            if (!q || (uintptr_t)q % align || (uintptr_t)q % 16 || malloc_usable_size(q) < size) puts("misplaced");
            memset(q, 1, size);
            q = realloc(q, size + 100);
            for (size_t n = 0; n < size; n++) if (q[n] != 1) puts("lost");
            free(q);
        }
    errno = 5;
    free(malloc(1));
    printf("errno after a free: %d\n", errno);
    return 0;
}"#;

#[test]
fn return_values_and_error_numbers_are_those_of_glibc() {
    let Some((_folder, program)) = compiled(CALLS) else { return };
    let without = text(&ran(&mut plain(&program)).stdout);
    assert!(without.lines().count() > 40);
    for how in ["all", "every=2"] {
        let with = ran(&mut guarded(&program, &[("VMALLOC_GUARD", how)]));
        assert_eq!(text(&with.stdout), without, "{how}: {}", text(&with.stderr));
    }
}

#[test]
fn the_frees_of_c23_free() {
    let source = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
int main(void) {
    void (*sized)(void *, size_t) = dlsym(RTLD_DEFAULT, "free_sized");
    void (*aligned)(void *, size_t, size_t) = dlsym(RTLD_DEFAULT, "free_aligned_sized");
    aligned(aligned_alloc(64, 128), 64, 128);
    char *volatile block = malloc(64);
    sized(block, 64);
    block[5] = 1;
}"#;
    let Some(end) = run(source, &[]) else { return };
    assert_eq!((end.reports(), end.signal), (1, Some(libc::SIGSEGV)), "{end:?}");
    assert!(end.errors.contains("use after free"), "{}", end.errors);
}
