//! The traditional subsystem over one instance of the process.
//!
//! The traditional names take no instance. So there is one for all of them, which begins with the
//! first call of any, or with `vmalloc_kernel_start`, and lasts as long as the process.
//!
//! ```text
//!   area   vmalloc, vfree, vrealloc     map     vmap, vm_map_ram, vmalloc_to_page
//!   slab   kmalloc, kvmalloc, kvfree_rcu     page   struct page, alloc_page     percpu   alloc_percpu
//!   ─────────
//!   host   what the subsystem asks of a process: scopes, ticks     rcu   readers, and waiting for them
//! ```
//!
//! Their numbers, flags and types are those of `kernel.h`, whose inline functions hand them on.

mod area;
mod host;
mod map;
mod page;
mod percpu;
mod rcu;
mod slab;

use crate::border::{Answer, border, serve};
use crate::instance::{Instance, Options};
use crate::number::{Failure, Number};
use host::Process;
use page::MemMap;
use percpu::Objects;
use std::ffi::c_int;
use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};
use vmalloc::machine::{Level, Machine};
use vmalloc::units::Node;
use vmalloc_hosted::Hosted;
use vmalloc_kernel::{GfpFlags, Kernel};

/// The subsystem, and what is kept beside it.
struct Subsystem {
    instance: &'static Instance,
    kernel: &'static Kernel<'static, Hosted, Process>,
    pages: MemMap,
    objects: Objects,
}

static STARTED: OnceLock<Subsystem> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

impl Subsystem {
    fn new(options: Option<&Options>) -> Result<Subsystem, Failure> {
        let instance: &'static Instance = Box::leak(Box::new(Instance::build(options)?));
        let kernel: &'static _ = Box::leak(Box::new(Kernel::new(instance.vm(), Process)));
        let (pages, objects) = (MemMap::new(instance.vm().machine())?, Objects::new(kernel)?);
        Ok(Subsystem { instance, kernel, pages, objects })
    }

    /// What serves all calls; it begins with these options, if none has begun it.
    fn started(options: Option<&Options>) -> Result<(&'static Subsystem, bool), Failure> {
        if let Some(started) = STARTED.get() {
            return Ok((started, false));
        }
        let _one = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(started) = STARTED.get() {
            return Ok((started, false));
        }
        let made = Subsystem::new(options)?;
        Ok((STARTED.get_or_init(|| made), true))
    }

    /// A line of the log about a call that the traditional subsystem would not have survived.
    fn warn(&self, line: fmt::Arguments<'_>) {
        self.instance.vm().machine().log(Level::Warn, line);
    }
}

/// Runs a call of the traditional subsystem.
fn call<T: Answer>(call: impl FnOnce(&'static Subsystem) -> Result<T, Failure>) -> T {
    border(|| {
        let (subsystem, _) = Subsystem::started(None)?;
        // SAFETY: CP1: it lasts as long as the process.
        Ok(unsafe { serve(subsystem.instance, |_| call(subsystem)) })
    })
}

/// Runs a call that returns nothing: the log is told what is refused, by the name that C calls it by.
fn told(name: &str, at: *const u8, call: impl FnOnce(&'static Subsystem) -> Result<(), Failure>) {
    self::call(|subsystem| {
        call(subsystem).inspect_err(|failure| subsystem.warn(format_args!("{name}: {at:p}: {failure}")))
    })
}

/// The flags of a request.
fn gfp(bits: u32) -> Result<GfpFlags, Failure> {
    GfpFlags::from_bits(bits).ok_or_else(|| Failure::argument("a gfp flag that there is not"))
}

/// A node; -1 (`NUMA_NO_NODE`) and below are any.
fn node(number: c_int) -> Option<Node> {
    // Above all that there are is refused, as any node that there is not.
    (number >= 0).then(|| Node(u8::try_from(number).unwrap_or(u8::MAX)))
}

/// Begins the traditional subsystem with these options. Who leaves this call out has the usual ones.
/// Returns 0, or why it was refused: `VMALLOC_ERROR_BUSY` where it has begun before.
///
/// # Safety
/// CP2, CP5.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_kernel_start(options: *const Options) -> c_int {
    // SAFETY: CP2.
    let options = unsafe { options.as_ref() };
    border(|| match Subsystem::started(options)? {
        (_, true) => Ok(0),
        (_, false) => Err(Failure::new(Number::Busy, "the traditional subsystem has begun before")),
    })
}

/// The instance under the traditional subsystem, for questions. It is nobody's to delete. Null where it
/// cannot be had.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_instance() -> *mut Instance {
    border(|| Ok(std::ptr::from_ref(Subsystem::started(None)?.0.instance).cast_mut()))
}
