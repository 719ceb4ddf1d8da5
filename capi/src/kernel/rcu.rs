//! Readers, and waiting for those of a moment.
//!
//! The period is a number that only grows. A reader writes down the period in which it began; a grace
//! period begins a new one, and has passed when no reader is left of an older one.
//!
//! # Rules
//! - **CR1** A reader writes its period down, and then, behind a fence, follows a pointer. Whoever takes a
//!   pointer away does so before a fence, behind which it begins the period and looks at readers. So
//!   a reader that is not seen does not find the pointer any more.

use crate::border::border;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::*, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

static PERIOD: AtomicU64 = AtomicU64::new(1);
/// The period in which each thread began to read; 0 = it does not.
static READERS: Mutex<Vec<Arc<AtomicU64>>> = Mutex::new(Vec::new());

/// A thread that reads now and then.
struct Reader {
    since: Arc<AtomicU64>,
    depth: Cell<usize>,
}

thread_local! {
    static READER: Reader = Reader::new();
}

impl Reader {
    fn new() -> Reader {
        let since = Arc::new(AtomicU64::new(0));
        readers().push(since.clone());
        Reader { since, depth: Cell::new(0) }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        readers().retain(|since| !Arc::ptr_eq(since, &self.since));
    }
}

fn readers() -> MutexGuard<'static, Vec<Arc<AtomicU64>>> {
    READERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A grace period begins: its number.
pub fn begin() -> u64 {
    fence(SeqCst);
    PERIOD.fetch_add(1, SeqCst) + 1
}

/// Whether all readers have ended that had begun before that grace period.
pub fn has_passed(number: u64) -> bool {
    fence(SeqCst);
    readers().iter().map(|since| since.load(Acquire)).all(|since| since == 0 || since >= number)
}

/// Waits for a grace period.
pub fn synchronize() {
    let number = begin();
    while !has_passed(number) {
        thread::yield_now();
    }
}

/// The thread reads until it has called `vmalloc_kernel_rcu_read_unlock` as often as this.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_rcu_read_lock() {
    border(|| {
        READER.with(|reader| {
            if reader.depth.replace(reader.depth.get() + 1) == 0 {
                reader.since.store(PERIOD.load(SeqCst), SeqCst);
                // CR1.
                fence(SeqCst);
            }
        });
        Ok(())
    });
}

/// Ends what `vmalloc_kernel_rcu_read_lock` began. One too many is nothing.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_rcu_read_unlock() {
    border(|| {
        READER.with(|reader| {
            let depth = reader.depth.get().saturating_sub(1);
            reader.depth.set(depth);
            if depth == 0 {
                reader.since.store(0, Release);
            }
        });
        Ok(())
    });
}

/// Waits until all threads that read now have ended that. Not for one that reads itself.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_synchronize_rcu() {
    border(|| {
        synchronize();
        Ok(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_grace_period_waits_for_the_readers_of_before_and_for_no_later_ones() {
        let ((began, has_begun), (end, may_end)) = (mpsc::channel(), mpsc::channel());
        let old = thread::spawn(move || {
            vmalloc_kernel_rcu_read_lock();
            vmalloc_kernel_rcu_read_lock();
            vmalloc_kernel_rcu_read_unlock();
            began.send(()).unwrap();
            may_end.recv().unwrap();
            vmalloc_kernel_rcu_read_unlock();
        });
        has_begun.recv().unwrap();
        let number = begin();
        assert!(!has_passed(number), "the outer of two sections is open");
        vmalloc_kernel_rcu_read_lock();
        assert!(!has_passed(number));
        end.send(()).unwrap();
        old.join().unwrap();
        assert!(has_passed(number), "this thread has begun to read later");
        assert!(!has_passed(begin()));
        vmalloc_kernel_rcu_read_unlock();
        vmalloc_kernel_synchronize_rcu();
    }
}
