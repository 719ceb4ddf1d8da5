//! What comes to the C library's own `free`, past the library that is preloaded, is freed as well.

mod common;

use common::*;
use std::path::{Path, PathBuf};
use std::process::Command;

const HEAD: &str = "
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
";

/// A library that was made of this source, beside the program.
fn module(folder: &Path, source: &str) -> PathBuf {
    module_named(folder, "module.so", source)
}

fn module_named(folder: &Path, name: &str, source: &str) -> PathBuf {
    let (text, library) = (folder.join("module.c"), folder.join(name));
    std::fs::write(&text, format!("{HEAD}{source}")).expect("written");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-fno-builtin", "-w", "-o"]).arg(&library).arg(&text);
    assert!(cc.status().expect("cc").success());
    library
}

#[test]
fn by_an_address_that_was_asked_for_in_the_c_library() {
    let main = r#"
        void *library = dlopen("libc.so.6", RTLD_NOW);
        void (*own_free)(void *) = dlsym(library, "free");
        void *(*own_realloc)(void *, size_t) = dlsym(library, "realloc");
        void *(*own_array)(void *, size_t, size_t) = dlsym(library, "reallocarray");
        size_t (*own_usable)(void *) = dlsym(library, "malloc_usable_size");
        void *(*own_malloc)(size_t) = dlsym(library, "malloc");
        own_free(strdup("text"));
        char *text = strdup("text");
        if (own_usable(text) < 5) return 1;
        text = own_array(own_realloc(text, 500), 100, 100);
        if (strcmp(text, "text")) return 2;
        free(text);
        for (int n = 0; n < 1000; n++) {
            text = own_malloc(n);
            if (own_usable(text) < n) return 3;
            own_free(own_realloc(text, 10000));
        }
        own_free(0);
        free(own_realloc(0, 10));
        puts("done");"#;
    let double = r#"void (*own_free)(void *) = dlsym(dlopen("libc.so.6", RTLD_NOW), "free");
        void *volatile text = strdup("text"); own_free(text); own_free(text);"#;
    let of = |main: &str| run(&format!("{HEAD} int main(void) {{ {main} return 0; }}"), &[]);
    let Some(end) = of(main) else { return };
    assert_eq!((end.out.as_str(), end.code), ("done\n", Some(0)), "{end:?}");
    let Some(end) = of(double) else { return };
    assert_eq!((end.reports(), end.signal), (1, Some(libc::SIGABRT)), "{end:?}");
}

#[test]
fn by_a_module_that_is_bound_to_the_c_library_first() {
    let main = r#"int main(int argc, char **argv) {
        void *module = dlopen(argv[1], RTLD_NOW | RTLD_DEEPBIND);
        char *(*joined)(char *) = dlsym(module, "joined");
        char *text = joined(strdup("main"));
        puts(text);
        free(text);
        return 0; }"#;
    let Some((folder, program)) = compiled(&format!("{HEAD}{main}")) else { return };
    let module = module(
        folder.path(),
        r#"char *joined(char *with) {
            char *both, *first = strdup("module");
            asprintf(&both, "%s %s", first, with);
            free(first);
            free(with);
            return both; }"#,
    );
    let end = ran(guarded(program, &[("VMALLOC_GUARD", "all")]).arg(module));
    assert_eq!((text(&end.stdout).as_str(), end.status.code()), ("module main\n", Some(0)), "{end:?}");
}

#[test]
fn by_a_program_that_has_some_of_its_own_functions_over_the_c_librarys() {
    let source = r#"
void *__libc_malloc(size_t), __libc_free(void *), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
static int count;
void *malloc(size_t size) { count++; return __libc_malloc(size); }
void free(void *p) { count--; __libc_free(p); }
void *calloc(size_t n, size_t size) { count++; return __libc_calloc(n, size); }
void *realloc(void *p, size_t size) { return __libc_realloc(p, size); }
int main(void) {
    void *p;
    if (posix_memalign(&p, 64, 100)) return 1;
    free(p);
    free(realloc(aligned_alloc(64, 128), 1000));
    free(strdup("text"));
    free(malloc(10));
    puts("done");
    return 0;
}"#;
    let Some(end) = run(&format!("{HEAD}{source}"), &[]) else { return };
    assert_eq!((end.out.as_str(), end.code), ("done\n", Some(0)), "{end:?}");
}

#[test]
fn and_an_allocator_that_is_preloaded_behind_gets_its_own() {
    let main = r#"int main(void) {
        for (int n = 0; n < 1000; n++) free(realloc(calloc(n, 3), 500 + n));
        void (*own_free)(void *) = dlsym(dlopen("libc.so.6", RTLD_NOW), "free");
        for (int n = 0; n < 1000; n++) own_free(strdup("text"));
        puts("done");
        return 0; }"#;
    let Some((folder, program)) = compiled(&format!("{HEAD}{main}")) else { return };
    // It looks for the next one at each call: that must not be the first one again.
    let module = module(
        folder.path(),
        r#"#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
        static __thread int depth;
        void *realloc(void *p, size_t size) { if (depth++ > 9) abort(); p = NEXT(realloc)(p, size); depth--; return p; }
        void free(void *p) { if (depth++ > 9) abort(); NEXT(free)(p); depth--; }
        size_t malloc_usable_size(void *p) { if (depth++ > 9) abort(); size_t n = NEXT(malloc_usable_size)(p); depth--; return n; }"#,
    );
    for how in ["all", "every=2"] {
        let mut command = guarded(&program, &[("VMALLOC_GUARD", how)]);
        let end = ran(command.env("LD_PRELOAD", format!("{}:{}", library().display(), module.display())));
        assert_eq!((text(&end.stdout).as_str(), end.status.code()), ("done\n", Some(0)), "{how}: {end:?}");
    }
}

/// Runs a program behind the guard and a library that only has the C library's name; the program gets its path.
fn behind_a_namesake(main: &str, namesake: &str) -> Option<std::process::Output> {
    let (folder, program) = compiled(&format!("{HEAD} int main(int argc, char **argv) {{ {main} return 0; }}"))?;
    let namesake = module_named(folder.path(), "libc.so.6", namesake);
    let preload = format!("{}:{}", library().display(), namesake.display());
    let mut command = guarded(&program, &[("VMALLOC_GUARD", "all")]);
    Some(ran(command.env("LD_PRELOAD", preload).arg(namesake)))
}

#[test]
fn and_a_library_that_has_but_the_name_is_left_alone() {
    let main = r#"
        void *namesake = dlopen(argv[1], RTLD_NOW);
        if (dlsym(namesake, "free") != dlsym(namesake, "its_free")) return 1;
        void (*own_free)(void *) = dlsym(dlopen("libc.so.6", RTLD_NOW), "free");
        if (own_free == dlsym(namesake, "free")) return 2;
        own_free(strdup("text"));
        puts("done");"#;
    let namesake = "void __libc_free(void *);
        void its_free(void *p) { __libc_free(p); }
        void free(void *) __attribute__((alias(\"its_free\")));";
    let Some(end) = behind_a_namesake(main, namesake) else { return };
    assert_eq!((text(&end.stdout).as_str(), end.status.code()), ("done\n", Some(0)), "{end:?}");
}

/// The value of such a symbol is a function that tells which one to take, and frees nothing.
#[test]
fn and_a_function_that_is_chosen_when_it_is_bound_is_left_alone() {
    let main = r#"
        void *chosen = dlsym(dlopen(argv[1], RTLD_NOW), "free");
        int *asked = dlsym(RTLD_DEFAULT, "asked"), before = *asked;
        void *(*own_malloc)(size_t) = dlsym(RTLD_DEFAULT, "__libc_malloc");
        if (chosen != dlsym(RTLD_DEFAULT, "its_free")) return 1;
        void (*own_free)(void *) = dlsym(RTLD_DEFAULT, "__libc_free");
        own_free(own_malloc(10));
        if (*asked != before) return 2;
        puts("done");"#;
    let namesake = "void its_free(void *p) {}
        int asked;
        static void *choose(void) { asked++; return its_free; }
        void free(void *) __attribute__((ifunc(\"choose\")));
        const char *gnu_get_libc_version(void) { return \"2.36\"; }";
    let Some(end) = behind_a_namesake(main, namesake) else { return };
    assert_eq!((text(&end.stdout).as_str(), end.status.code()), ("done\n", Some(0)), "{end:?}");
}
