//! `planted KIND SIZE WAY`: does one thing wrong with an allocation of SIZE bytes, as planted.c does,
//! through Rust's allocator.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::hint::black_box;
use std::process::exit;

const PAGE: usize = 4096;
/// More than lies behind any allocation, so that realloc has to move it.
const FAR: usize = 256 << 10;
/// From this size on, allocations are aligned more than malloc does by itself.
const ALIGNED: usize = 64;

/// An allocation, and what is to be done with it.
struct Planted {
    kind: String,
    moves: bool,
    at: *mut u8,
    layout: Layout,
}

// SAFETY: nobody else has the allocation; what is wrong with it is wrong in any thread.
unsafe impl Send for Planted {}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, kind, size, way] = &args[..] else { usage() };
    let Some(size) = size.parse().ok().filter(|&size| size > 0) else { usage() };
    let planted = Planted::make(kind, size, way == "realloc");
    match &**way {
        "plain" | "realloc" => planted.spoil(),
        "thread" => std::thread::spawn(move || planted.spoil()).join().unwrap_or_else(|_| exit(3)),
        "fork" => exit(planted.in_child()),
        _ => usage(),
    }
}

fn usage() -> ! {
    eprintln!("usage: planted KIND SIZE plain|thread|fork|realloc");
    exit(2)
}

fn layout(size: usize) -> Layout {
    let align = if size < ALIGNED { 1 } else { ALIGNED };
    Layout::from_size_align(size, align).unwrap_or_else(|_| exit(3))
}

impl Planted {
    fn make(kind: &str, size: usize, by_realloc: bool) -> Planted {
        let (layout, larger) = (layout(size), layout(size).size() + FAR);
        let moves = by_realloc && matches!(kind, "use-after-free" | "double-free");
        // SAFETY: not of size 0; each is what the last call gave.
        let at = unsafe {
            let at = alloc(layout);
            if by_realloc && !moves {
                let large = realloc(at, layout, larger);
                realloc(large, Layout::from_size_align_unchecked(larger, layout.align()), layout.size())
            } else {
                at
            }
        };
        if at.is_null() {
            exit(3);
        }
        // SAFETY: of so many bytes.
        unsafe { at.write_bytes(b'x', size) };
        Planted { kind: kind.to_owned(), moves, at: black_box(at), layout }
    }

    fn in_child(&self) -> i32 {
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            0 => {
                self.spoil();
                0
            }
            child => waited(child),
        }
    }

    fn spoil(&self) {
        let size = self.layout.size() as isize;
        match &*self.kind {
            "overrun-write" => self.write((0..PAGE as isize).map(|i| size + i)),
            "overrun-read" => self.read((0..PAGE as isize).map(|i| size + i)),
            "underrun" => self.write((1..=PAGE as isize).map(|i| -i)),
            "canary" => self.write(std::iter::once(size)),
            "use-after-free" => {
                self.release();
                self.look(size / 2);
            }
            "double-free" => {
                self.release();
                self.free(0);
            }
            "invalid-free" => {
                self.free((size as usize / 2).max(1));
                self.free(0);
            }
            "none" => self.nothing(),
            _ => usage(),
        }
    }

    fn write(&self, at: impl Iterator<Item = isize>) {
        for at in at {
            // SAFETY: none; this is the bug.
            unsafe { self.at.wrapping_offset(at).write_volatile(b'y') };
        }
        self.free(0);
    }

    fn read(&self, at: impl Iterator<Item = isize>) {
        at.for_each(|at| self.look(at));
        self.free(0);
    }

    fn look(&self, at: isize) {
        // SAFETY: none; this is the bug.
        black_box(unsafe { self.at.wrapping_offset(at).read_volatile() });
    }

    fn free(&self, at: usize) {
        // SAFETY: of the right free, what `make` has got; of a wrong one, none.
        unsafe { dealloc(black_box(self.at.wrapping_add(at)), self.layout) }
    }

    /// The first free, where one belongs to the bug.
    fn release(&self) {
        if !self.moves {
            return self.free(0);
        }
        // SAFETY: what `make` has got.
        let moved = unsafe { realloc(black_box(self.at), self.layout, self.layout.size() + FAR) };
        if moved == self.at {
            self.free(0);
        }
    }

    /// All of it right: what is allocated keeps its bytes, is aligned and cleared.
    fn nothing(&self) {
        let (size, align) = (self.layout.size(), self.layout.align());
        // SAFETY: of so many bytes each, not of size 0, freed by the size that they have then.
        unsafe {
            let cleared = alloc_zeroed(self.layout);
            let right = (0..size).all(|at| (*self.at.add(at), *cleared.add(at)) == (b'x', 0));
            let grown = realloc(self.at, self.layout, 2 * size);
            let kept = *grown.add(size / 2) == b'x';
            grown.write_bytes(b'y', 2 * size);
            if !(right && kept && self.at.addr().is_multiple_of(align)) {
                exit(4);
            }
            dealloc(grown, Layout::from_size_align_unchecked(2 * size, align));
            dealloc(cleared, self.layout);
        }
    }
}

/// The exit code for what became of `child`.
fn waited(child: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: a child of ours.
    if unsafe { libc::waitpid(child, &mut status, 0) } != child {
        return 3;
    }
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}
