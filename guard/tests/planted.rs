//! Bugs that are planted in children of a process whose every allocation is guarded: each kind, in
//! allocations of 1 byte to 1 MiB, in a thread, in a child, after a realloc. All are found.

mod common;

use common::{End, in_child};
use std::alloc::{Layout, alloc, dealloc, realloc};
use std::hint::black_box;
use vmalloc_guard::{Guarded, Side};

#[global_allocator]
static ALLOCATOR: Guarded = Guarded::all().side(Side::End);

const SIZES: [usize; 7] = [1, 7, 100, 4096, 5000, 65_536, 1 << 20];

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 1).expect("small")
}

fn made(size: usize) -> *mut u8 {
    // SAFETY: the size is not 0.
    black_box(unsafe { alloc(layout(size)) })
}

fn freed(size: usize) -> *mut u8 {
    let at = made(size);
    // SAFETY: allocated just now.
    unsafe { dealloc(at, layout(size)) };
    black_box(at)
}

fn overrun(size: usize) {
    // SAFETY: none: it is the bug.
    unsafe { made(size).add(size).write_volatile(1) };
}

fn use_after_free(size: usize) {
    // SAFETY: none: it is the bug.
    unsafe { freed(size).add(size / 2).read_volatile() };
}

fn double_free(size: usize) {
    // SAFETY: none: it is the bug.
    unsafe { dealloc(freed(size), layout(size)) };
}

fn invalid_free(size: usize) {
    // SAFETY: none: it is the bug.
    unsafe { dealloc(made(size).wrapping_add(1), layout(size)) };
}

fn canary(size: usize) {
    let at = made(size);
    // SAFETY: none: it is the bug.
    unsafe {
        at.wrapping_sub(3).write_volatile(1);
        dealloc(at, layout(size));
    }
}

fn after_realloc(size: usize) {
    let at = made(size);
    // SAFETY: the first is right, and the second is the bug.
    unsafe {
        black_box(realloc(at, layout(size), size + 10));
        at.read_volatile();
    }
}

/// Each ends as it should, in the process itself, in a thread and in a child of it.
fn expect(bug: fn(usize), sizes: &[usize], signal: i32, words: &str) {
    for &size in sizes {
        let in_thread = || _ = std::thread::spawn(move || bug(size)).join();
        for end in [in_child(|| bug(size)), in_child(in_thread)] {
            let End { text, .. } = &end;
            let first = text.lines().next().unwrap_or_default();
            assert!(first.starts_with("vmalloc-guard: ") && first.contains(words), "{size}: {end:?}");
            assert!(first.contains(&format!("allocation of {size} byte")), "{size}: {text}");
            assert!(text.contains("planted.rs:"), "{size}: {text}");
            assert_eq!(end.signal, Some(signal), "{size}: {text}");
        }
    }
}

#[test]
fn an_overrun_is_found_where_it_happens() {
    expect(overrun, &SIZES, libc::SIGSEGV, "overrun: a write to ");
}

#[test]
fn a_use_after_free_is_found_and_has_both_stories() {
    expect(use_after_free, &SIZES, libc::SIGSEGV, "use after free: a read of ");
    let text = in_child(|| use_after_free(100)).text;
    assert!(text.contains("\nfreed by thread ") && text.contains("\nallocated by thread "), "{text}");
    let stories = text.lines().filter(|line| line.contains("use_after_free") && !line.contains("a_use")).count();
    assert_eq!(stories, 3, "{text}");
    assert!(!text.contains("vmalloc_guard::"), "{text}");
}

#[test]
fn a_realloc_ends_the_old_allocation() {
    expect(after_realloc, &SIZES, libc::SIGSEGV, "use after free: a read of ");
}

#[test]
fn a_double_free_ends_the_program() {
    expect(double_free, &SIZES, libc::SIGABRT, "double free: of ");
}

#[test]
fn an_invalid_free_ends_the_program() {
    expect(invalid_free, &SIZES, libc::SIGABRT, "invalid free: of ");
}

#[test]
fn a_canary_tells_how_many_bytes_were_overwritten() {
    expect(canary, &[1, 7, 100, 5000], libc::SIGABRT, "canary overwritten: 1 byte from ");
}
