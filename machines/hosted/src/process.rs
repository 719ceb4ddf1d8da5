//! Which process this is: a child does not get the memory of its parent's instances.
//!
//! Where it lay in the parent the child may have something else by then. So nothing there is given back, and
//! every call of the instance is refused ([`Machine::is_elsewhere`](vmalloc::machine::Machine::is_elsewhere)).

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How many forks lie between the first process that had an instance and this one.
static FORKS: AtomicU32 = AtomicU32::new(0);
static ATTENDED: Once = Once::new();

// SAFETY: the declaration is that of the C library.
unsafe extern "C" {
    fn pthread_atfork(
        prepare: Option<extern "C" fn()>,
        parent: Option<extern "C" fn()>,
        child: Option<extern "C" fn()>,
    ) -> i32;
}

extern "C" fn child() {
    FORKS.fetch_add(1, Relaxed);
}

/// A process, told from its children.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process(u32);

impl Process {
    /// This one.
    pub fn this() -> Process {
        ATTENDED.call_once(|| {
            // SAFETY: the handler is one atomic addition. It fails for want of memory alone: then children are
            // not known.
            unsafe { pthread_atfork(None, None, Some(child)) };
        });
        Process(FORKS.load(Relaxed))
    }

    /// Whether it is this one.
    #[inline]
    pub fn is_this(self) -> bool {
        self.0 == FORKS.load(Relaxed)
    }
}
