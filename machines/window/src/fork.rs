//! Forks: nobody is in the middle of a call when the process is copied.
//!
//! A child has its own copy of the window, of the bookkeeping and of every lock, and of the threads
//! only the one that forked. So what another thread held at that moment would be held for ever in the
//! child. Before the fork [`Stopped`] enters every CPU of the instance, and takes the machine's own
//! locks; both processes give them up after it.
//!
//! [`AtFork`] is what handlers of `pthread_atfork` need, which get no argument:
//!
//! ```
//! use vmalloc::Vmalloc;
//! use vmalloc_window::{AtFork, Window};
//!
//! static AT_FORK: AtFork = AtFork::new();
//! static VM: std::sync::OnceLock<Vmalloc<Window>> = std::sync::OnceLock::new();
//!
//! extern "C" fn prepare() {
//!     VM.get().into_iter().for_each(|vm| _ = AT_FORK.prepare(vm));
//! }
//! extern "C" fn parent() {
//!     AT_FORK.parent();
//! }
//! extern "C" fn child() {
//!     AT_FORK.child();
//! }
//! # // SAFETY: the declaration is that of the C library.
//! # unsafe extern "C" { fn pthread_atfork(prepare: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) -> i32; }
//! # let vm = vmalloc_window::builder().memory(1 << 20).build().unwrap();
//! # assert!(VM.set(vm).is_ok());
//! // SAFETY: the handlers allocate nothing and may run in any thread.
//! unsafe { pthread_atfork(prepare, parent, child) };
//! ```

use crate::cpu;
use crate::machine::Window;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use vmalloc::{AllocError, Quiesced, Vmalloc};

/// An instance that nobody is inside of, until this is dropped: by the thread that made it, in the
/// parent and in the child.
pub struct Stopped<'v> {
    machine: &'v Window,
    quiesced: Quiesced<'v, Window>,
}

impl<'v> Stopped<'v> {
    /// Waits until nobody is inside, and keeps everybody out.
    ///
    /// # Errors
    /// [`AllocError::WrongContext`] in a signal handler in the middle of a call.
    pub fn new(vm: &'v Vmalloc<Window>) -> Result<Stopped<'v>, AllocError> {
        // First the CPUs: who is inside may want the locks.
        let quiesced = vm.quiesce()?;
        vm.machine().each_lock(&mut |lock| lock.hold());
        Ok(Stopped { machine: vm.machine(), quiesced })
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        // SAFETY: `new` took each, and this is the same thread, or the one that a fork made of it.
        self.machine.each_lock(&mut |lock| unsafe { lock.give_back() });
    }
}

/// What is stopped between the handlers of a fork. One for each instance.
#[derive(Default)]
pub struct AtFork {
    /// The thread that has stopped the instance; 0 = none.
    owner: AtomicUsize,
    /// Forks that signal handlers of that thread have begun since, and not ended.
    nested: AtomicUsize,
    stopped: UnsafeCell<Option<Stopped<'static>>>,
}

// SAFETY: `stopped` is written and taken only by its owner, while the instance is stopped: one at a time.
unsafe impl Sync for AtFork {}

impl AtFork {
    /// Nothing is stopped.
    pub const fn new() -> AtFork {
        AtFork { owner: AtomicUsize::new(0), nested: AtomicUsize::new(0), stopped: UnsafeCell::new(None) }
    }

    /// Before the fork. Returns whether the instance is stopped: it is not in a signal handler that has
    /// interrupted a call. The child of such a fork should not use the instance.
    pub fn prepare(&self, vm: &'static Vmalloc<Window>) -> bool {
        if self.is_owner() {
            self.nested.fetch_add(1, Relaxed);
            return false;
        }
        let Ok(stopped) = Stopped::new(vm) else { return false };
        // SAFETY: the instance is stopped, by this thread.
        unsafe { *self.stopped.get() = Some(stopped) };
        self.owner.store(cpu::thread(), Relaxed);
        true
    }

    /// After the fork, in the parent. Nothing happens if [`AtFork::prepare`] returned false.
    pub fn parent(&self) {
        drop(self.take());
    }

    /// After the fork, in the child: what other threads were looking at is nobody's any more.
    pub fn child(&self) {
        if let Some(stopped) = self.take() {
            // SAFETY: N3: this is the only thread of the child.
            unsafe { stopped.quiesced.forget_looks() };
        }
    }

    fn is_owner(&self) -> bool {
        self.owner.load(Relaxed) == cpu::thread()
    }

    fn take(&self) -> Option<Stopped<'static>> {
        if !self.is_owner() {
            return None;
        }
        if self.nested.load(Relaxed) > 0 {
            self.nested.fetch_sub(1, Relaxed);
            return None;
        }
        self.owner.store(0, Relaxed);
        // SAFETY: this thread is the owner.
        unsafe { (*self.stopped.get()).take() }
    }
}
