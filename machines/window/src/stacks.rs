//! Stacks of one size, for coroutines and threads: none costs a mapping, and a page that nobody may
//! reach lies on both sides of each.
//!
//! ```text
//!   take ─▶ kept, if there is one ──none──▶ a new area          [Req::stack]
//!   drop ─▶ how deep was it? its bytes go ─▶ kept ──enough are──▶ freed
//! ```
//!
//! # Words
//! - *deep*: bytes of a stack, from its top down to the lowest one that was written. Linux is asked which
//!   pages were touched, so it costs no touch of the others.
//! - *kept*: a stack that nobody has, for the next call. It holds the memory of [`WARM`] bytes, which are
//!   clear but for the link to the next one.
//!
//! # Rules
//! - **S1** A stack that is taken is clear, whoever had it before.
//! - **S2** The bytes of a kept stack are the pool's alone. The list is changed under its lock.

use crate::builder::{BuildError, builder};
use crate::lock::Lock;
use crate::machine::Window;
use crate::os;
use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use vmalloc::units::{PAGE_SIZE, PageRange, VirtAddr};
use vmalloc::{AllocError, Req, Vmalloc};

/// The smallest stack.
const LEAST: usize = 16 << 10;
/// The largest.
const MOST: usize = 8 << 20;
/// Bytes at the top that a kept stack keeps: what most coroutines use.
const WARM: usize = LEAST;
/// Stacks that are kept, at most.
const KEPT: usize = 1024;

/// Stacks of one size, with a page on both sides of each that nobody may reach. None costs a mapping.
///
/// Any thread takes and gives up; a signal handler must not. In the child of a fork a pool may be used
/// if no other thread of the parent was using it.
///
/// ```
/// let pool = vmalloc_window::StackPool::new(64 << 10, 1000)?;
/// let stack = pool.take()?;
/// assert_eq!(stack.top().as_ptr().addr() - stack.bottom().as_ptr().addr(), 64 << 10);
/// drop(stack);
/// assert_eq!(pool.deepest(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct StackPool {
    vm: Vmalloc<Window>,
    pages: usize,
    kept: Lock<Kept>,
    deepest: AtomicUsize,
}

/// The kept stacks: the first, and how many.
struct Kept {
    first: Option<NonNull<u8>>,
    stacks: usize,
}

// SAFETY: S2: what is kept is nobody's, and any thread may take it.
unsafe impl Send for Kept {}

/// Why there is no pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PoolError {
    /// A stack has from 16 KiB to 8 MiB.
    Size {
        /// The bytes that were asked for.
        bytes: usize,
    },
    /// The window cannot be had.
    Build(BuildError),
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolError::Size { bytes } => write!(f, "stacks of {bytes} bytes: from {LEAST} to {MOST} are possible"),
            PoolError::Build(why) => why.fmt(f),
        }
    }
}

impl core::error::Error for PoolError {}

/// A stack of a pool, until it is dropped. `P` is how it knows its pool: a reference, or an `Arc`.
pub struct PooledStack<P: Deref<Target = StackPool>> {
    pool: P,
    bottom: NonNull<u8>,
}

// SAFETY: its bytes are its holder's alone; the pool may be shared.
unsafe impl<P: Deref<Target = StackPool> + Send> Send for PooledStack<P> {}
// SAFETY: as above; shared access changes no bytes.
unsafe impl<P: Deref<Target = StackPool> + Sync> Sync for PooledStack<P> {}

impl StackPool {
    /// A pool of stacks of `bytes` bytes, rounded up to whole pages, of which there are `most` at
    /// least at once, and at most 1,024 more: a stack that was given up waits for a flush. They cost
    /// addresses; Linux provides memory for what is touched.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub fn new(bytes: usize, most: usize) -> Result<StackPool, PoolError> {
        let pages = bytes.div_ceil(PAGE_SIZE);
        if bytes > MOST || pages < LEAST / PAGE_SIZE {
            return Err(PoolError::Size { bytes });
        }
        // An aligned slot has twice the pages, for the one below, and a chunk may end in half as many.
        let window = most.saturating_add(KEPT).saturating_mul(4 * (pages * PAGE_SIZE).next_power_of_two());
        let memory = most.saturating_add(KEPT).saturating_mul(pages * PAGE_SIZE);
        let vm = builder().window(window.max(1 << 30)).memory(memory).build().map_err(PoolError::Build)?;
        Ok(StackPool { vm, pages, kept: Lock::new(Kept { first: None, stacks: 0 }), deepest: AtomicUsize::new(0) })
    }

    /// Bytes of each stack.
    pub fn bytes(&self) -> usize {
        self.pages * PAGE_SIZE
    }

    /// A clear stack (S1). O(1); a new one costs a call to Linux.
    ///
    /// # Errors
    /// See [`AllocError`].
    #[track_caller]
    pub fn take(&self) -> Result<PooledStack<&StackPool>, AllocError> {
        PooledStack::of(self)
    }

    /// The most bytes that any stack has had in use when it was given up.
    pub fn deepest(&self) -> usize {
        self.deepest.load(Relaxed)
    }

    /// The instance: whose address is this ([`Vmalloc::whatis`]), and what does it hold?
    pub fn vm(&self) -> &Vmalloc<Window> {
        &self.vm
    }

    /// Where a kept stack has its link: the last word below its top.
    fn link(&self, bottom: NonNull<u8>) -> NonNull<Option<NonNull<u8>>> {
        // SAFETY: the last word of the stack.
        unsafe { bottom.add(self.bytes() - size_of::<usize>()).cast() }
    }

    fn pop(&self) -> Option<NonNull<u8>> {
        let mut kept = self.kept.lock();
        let bottom = kept.first?;
        kept.stacks -= 1;
        // SAFETY: S2: `push` wrote the link, and the stack is nobody else's. S1: it was the last byte set.
        kept.first = unsafe { self.link(bottom).replace(None) };
        Some(bottom)
    }

    /// Keeps a stack that is clear; false if enough are kept.
    fn push(&self, bottom: NonNull<u8>) -> bool {
        let mut kept = self.kept.lock();
        if kept.stacks == KEPT {
            return false;
        }
        kept.stacks += 1;
        // SAFETY: S2: nobody has it.
        unsafe { self.link(bottom).write(kept.first.replace(bottom)) };
        true
    }

    fn range(&self, bottom: NonNull<u8>) -> PageRange {
        PageRange::new(VirtAddr(bottom.addr().get()), self.pages)
    }

    /// Takes the bytes of a stack away; false if Linux refuses.
    fn clear(&self, bottom: NonNull<u8>) -> bool {
        let cold = PageRange::new(VirtAddr(bottom.addr().get()), self.pages - WARM / PAGE_SIZE);
        // SAFETY: O1, O2: the stack is the pool's own, and nobody uses it.
        let cleared = cold.pages == 0 || unsafe { os::discard(cold) }.is_ok();
        // SAFETY: as above.
        unsafe { bottom.add(cold.bytes()).write_bytes(0, WARM) };
        cleared
    }

    /// Bytes from the top of a stack to the lowest one that is not clear. A page that Linux has
    /// swapped out counts as untouched.
    fn depth(&self, bottom: NonNull<u8>) -> usize {
        let range = self.range(bottom);
        let touched = os::first_resident(range).unwrap_or(range.pages);
        let mut words = (touched * PAGE_SIZE..self.bytes()).step_by(size_of::<usize>());
        // SAFETY: words of the stack, which its holder does not use meanwhile.
        let is_set = |&at: &usize| unsafe { bottom.add(at).cast::<usize>().read_volatile() } != 0;
        words.find(is_set).map_or(0, |lowest| self.bytes() - lowest)
    }
}

impl fmt::Debug for StackPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackPool")
            .field("bytes", &self.bytes())
            .field("kept", &self.kept.lock().stacks)
            .field("deepest", &self.deepest())
            .finish_non_exhaustive()
    }
}

impl<P: Deref<Target = StackPool>> PooledStack<P> {
    /// As [`StackPool::take`], of a pool that an `Arc` may hold.
    ///
    /// # Errors
    /// See [`AllocError`].
    #[track_caller]
    pub fn of(pool: P) -> Result<PooledStack<P>, AllocError> {
        let bottom = match pool.pop() {
            Some(bottom) => bottom,
            None => pool.vm.alloc(Req::stack(pool.pages))?,
        };
        Ok(PooledStack { pool, bottom })
    }

    /// Its lowest byte. The page below it faults.
    pub fn bottom(&self) -> NonNull<u8> {
        self.bottom
    }

    /// The first byte past it, where it begins to grow down. The page there faults.
    pub fn top(&self) -> NonNull<u8> {
        // SAFETY: one past the stack.
        unsafe { self.bottom.add(self.pool.bytes()) }
    }

    /// How deep it has been since it was taken, in bytes (the high-water mark). Where something runs on
    /// it meanwhile, the answer may be a little old.
    pub fn depth(&self) -> usize {
        self.pool.depth(self.bottom)
    }
}

impl<P: Deref<Target = StackPool>> Drop for PooledStack<P> {
    fn drop(&mut self) {
        let pool = &*self.pool;
        pool.deepest.fetch_max(self.depth(), Relaxed);
        if !pool.clear(self.bottom) || !pool.push(self.bottom) {
            // SAFETY: V1: nobody runs on it.
            let freed = unsafe { pool.vm.free(self.bottom) };
            debug_assert!(freed.is_ok(), "{freed:?}");
        }
    }
}

impl<P: Deref<Target = StackPool>> fmt::Debug for PooledStack<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PooledStack({} bytes at {:?})", self.pool.bytes(), self.bottom)
    }
}
