//! A clock for an instance: what a kernel's timer does.
//!
//! Calls take steps of reclaim with them, so that an instance in use needs no clock. One that is left alone
//! does: what waits for a flush and what is cached for the next area of its size would stay so. When nobody has
//! called for a period, and both are gone, its free memory goes back to Linux as well.

use crate::cpu::prefer;
use crate::machine::Hosted;
use std::io;
use std::mem;
use std::ops::Deref;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use vmalloc::Vmalloc;
use vmalloc::machine::Machine;

/// A thread that ticks for all CPUs of an instance, until this is dropped. In the child of a fork there is no
/// such thread.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// let vm = Arc::new(vmalloc_hosted::builder().build()?);
/// let _clock = vmalloc_hosted::Ticker::start(Arc::clone(&vm), Duration::from_millis(100))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Ticker {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Ticks for `vm` with this period: a tenth of a second is what kernels have.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start<V>(vm: V, every: Duration) -> io::Result<Ticker>
    where
        V: Deref<Target = Vmalloc<Hosted>> + Send + 'static,
    {
        let (end, ended) = channel();
        let tick = move || {
            let mut idle = Idle::default();
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                tick_all(&vm);
                idle.look(&vm);
            }
        };
        let thread = Builder::new().name("vmalloc-ticker".to_owned()).spawn(tick)?;
        Ok(Ticker { end: Some(end), thread: Some(thread) })
    }
}

/// Whether somebody uses the instance.
#[derive(Default)]
struct Idle {
    /// Allocations and frees up to the last tick.
    calls: u64,
    /// Whether memory was given back since the last of them.
    given: bool,
}

impl Idle {
    /// Gives memory back, once in each idle while, when there has been no call since the last look and no area
    /// waits or is cached.
    fn look(&mut self, vm: &Vmalloc<Hosted>) {
        let stats = vm.stats();
        let calls = stats.counts.allocs + stats.counts.local_frees + stats.counts.remote_frees;
        if calls != mem::replace(&mut self.calls, calls) {
            self.given = false;
        } else if !self.given && (stats.cached_pages, stats.waiting_pages) == (0, 0) {
            vm.purge();
            self.given = true;
        }
    }
}

/// A tick on each CPU, and what they ask for.
fn tick_all(vm: &Vmalloc<Hosted>) {
    for cpu in 0..vm.machine().cpus() {
        prefer(cpu);
        if vm.tick().work {
            vm.work();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.end.take());
        // A panic in it was told when it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
