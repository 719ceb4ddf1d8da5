//! A vector that grows by one number at a time: by what its allocator's `realloc` does.

use super::cpu_time;
use anyhow::{Result, ensure};
use std::alloc::{GlobalAlloc, Layout};
use std::ptr::null_mut;
use std::time::Duration;

/// The numbers that are pushed.
pub const NUMBERS: usize = 10_000_000;

/// What it takes to push them all, in CPU time of this thread, and to give the vector back.
pub fn time(heap: &impl GlobalAlloc) -> Result<Duration> {
    let start = cpu_time();
    let mut numbers = Grown { heap, at: null_mut(), room: 0, len: 0 };
    let all_pushed = (0..NUMBERS as u64).all(|n| numbers.push(n));
    ensure!(all_pushed && numbers.last() == NUMBERS as u64 - 1, "no memory for {NUMBERS} numbers");
    drop(numbers);
    Ok(cpu_time() - start)
}

/// A `Vec<u64>` with an allocator that is not the process's: grows as that one does.
struct Grown<'a, A: GlobalAlloc> {
    heap: &'a A,
    at: *mut u64,
    room: usize,
    len: usize,
}

impl<A: GlobalAlloc> Grown<'_, A> {
    fn push(&mut self, number: u64) -> bool {
        if self.len == self.room && !self.grow() {
            return false;
        }
        // SAFETY: there is room for it.
        unsafe { self.at.add(self.len).write(number) };
        self.len += 1;
        true
    }

    #[cold]
    fn grow(&mut self) -> bool {
        let room = (2 * self.room).max(4);
        // SAFETY: the sizes are not 0, and no overflow; the block has the old one.
        let at = unsafe {
            match self.room {
                0 => self.heap.alloc(of(room)),
                old => self.heap.realloc(self.at.cast(), of(old), of(room).size()),
            }
        };
        if !at.is_null() {
            (self.at, self.room) = (at.cast(), room);
        }
        !at.is_null()
    }

    fn last(&self) -> u64 {
        // SAFETY: it was written.
        unsafe { self.at.add(self.len - 1).read() }
    }
}

impl<A: GlobalAlloc> Drop for Grown<'_, A> {
    fn drop(&mut self) {
        if self.room > 0 {
            // SAFETY: the block is the heap's, of this size.
            unsafe { self.heap.dealloc(self.at.cast(), of(self.room)) }
        }
    }
}

/// So many numbers.
fn of(numbers: usize) -> Layout {
    Layout::array::<u64>(numbers).unwrap_or(Layout::new::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::System;

    #[test]
    fn a_vector_keeps_its_numbers_while_it_grows() {
        let mut numbers = Grown { heap: &System, at: null_mut(), room: 0, len: 0 };
        for n in 0..100_000 {
            assert!(numbers.push(n));
        }
        assert_eq!((numbers.last(), numbers.room), (99_999, 131_072));
        // SAFETY: they were written.
        assert!(unsafe { std::slice::from_raw_parts(numbers.at, numbers.len) }.iter().copied().eq(0..100_000));
    }
}
