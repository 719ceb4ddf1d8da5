//! Instances: made, tended, ended.

use crate::border::{border, serve};
use crate::number::Failure;
use crate::query::symbol;
use crate::text;
use std::ffi::{c_char, c_int, c_void};
use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use vmalloc::{Placement, Vmalloc};
use vmalloc_hosted::{Builder, Hosted, builder};

/// An allocator with memory and addresses of its own.
pub struct Instance {
    vm: Vmalloc<Hosted>,
    /// A call has panicked (CB2).
    panicked: AtomicBool,
}

/// When freed areas become unreachable.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// When nobody has needed an area of that size for a while (`vmalloc_tick`). The fast one.
    Keep = 0,
    /// With one flush for many frees.
    Unmap = 1,
    /// At once: a use after the free faults.
    Strict = 2,
}

impl Policy {
    fn numbered(number: c_int) -> Result<vmalloc::Policy, Failure> {
        const ALL: [(Policy, vmalloc::Policy); 3] = [
            (Policy::Keep, vmalloc::Policy::Keep),
            (Policy::Unmap, vmalloc::Policy::Unmap),
            (Policy::Strict, vmalloc::Policy::Strict),
        ];
        let named = ALL.iter().find(|(policy, _)| *policy as c_int == number);
        named.map(|&(_, policy)| policy).ok_or_else(|| Failure::argument("the policy is none of enum vmalloc_policy"))
    }
}

/// Takes a line of the log, which ends with a zero and has no end of line. Any thread that makes a
/// call may call it, several at once. It makes no call on the instance.
pub type Log = Option<unsafe extern "C" fn(arg: *mut c_void, line: *const c_char)>;

/// What an instance is to have. 0 is the usual choice for each.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of memory, which Linux provides when they are first used; 0 = 1 GiB.
    pub memory: usize,
    /// Bytes of addresses; 0 = 64 GiB.
    pub addresses: usize,
    /// CPU indices, which threads share, 1 to 64; 0 = one a processor.
    pub cpus: u32,
    /// One of `enum vmalloc_policy`.
    pub policy: c_int,
    /// Whether areas go into the lowest hole that fits, not by size into slots of each CPU.
    pub lowest: bool,
    /// Who takes the log; null = the standard error output.
    pub log: Log,
    /// Handed to `log`.
    pub log_arg: *mut c_void,
}

impl Options {
    fn builder(&self) -> Result<Builder, Failure> {
        let policy = Policy::numbered(self.policy)?;
        let placement = if self.lowest { Placement::Lowest } else { Placement::Classes };
        let chosen = builder().policy(policy).placement(placement);
        let chosen = if self.memory > 0 { chosen.memory(self.memory) } else { chosen };
        let chosen = if self.addresses > 0 { chosen.region(self.addresses) } else { chosen };
        Ok(if self.cpus > 0 { chosen.cpus(self.cpus) } else { chosen })
    }
}

impl Instance {
    /// An instance with these options.
    pub fn build(options: Option<&Options>) -> Result<Instance, Failure> {
        let vm = options.map_or(Ok(builder()), Options::builder)?.build()?;
        let sink = options.and_then(|options| Some(Sink { log: options.log?, arg: options.log_arg }));
        vm.machine().set_log(Box::new(move |_, line| match &sink {
            Some(sink) => sink.tell(line),
            // Nobody fails for a line that cannot be written.
            None => drop(writeln!(std::io::stderr(), "vmalloc: {line}")),
        }));
        vm.machine().set_symbolizer(Box::new(symbol));
        Ok(Instance { vm, panicked: AtomicBool::new(false) })
    }

    /// The allocator.
    pub fn vm(&self) -> &Vmalloc<Hosted> {
        &self.vm
    }

    /// Whether a call has panicked.
    pub fn has_panicked(&self) -> bool {
        self.panicked.load(Relaxed)
    }

    /// A call has panicked.
    pub fn set_panicked(&self) {
        self.panicked.store(true, Relaxed);
    }
}

/// The function of C that takes the log.
struct Sink {
    log: unsafe extern "C" fn(*mut c_void, *const c_char),
    arg: *mut c_void,
}

// SAFETY: CP5: any thread may call it.
unsafe impl Send for Sink {}
// SAFETY: CP5: several at once.
unsafe impl Sync for Sink {}

impl Sink {
    fn tell(&self, line: fmt::Arguments<'_>) {
        let mut room = [0; 1024];
        text::write(&mut room, line);
        // SAFETY: CP5.
        unsafe { (self.log)(self.arg, room.as_ptr().cast()) }
    }
}

/// An instance with these options; null = the usual ones. Null where it cannot be had.
///
/// # Safety
/// CP2, CP5.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_new(options: *const Options) -> *mut Instance {
    // SAFETY: CP2.
    let options = unsafe { options.as_ref() };
    border(|| Ok(Box::into_raw(Box::new(Instance::build(options)?))))
}

/// Ends an instance: its areas are gone then. Null is nothing.
///
/// # Safety
/// CP1; and nobody uses its areas any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_delete(vm: *mut Instance) {
    border(|| {
        // SAFETY: CP1: where it is not null, `vmalloc_new` has made it by a box, and nobody has it any more.
        let vm = (!vm.is_null()).then(|| unsafe { Box::from_raw(vm) });
        // CB2: what a panic has left is not taken apart.
        vm.filter(|vm| vm.has_panicked()).map(Box::leak);
        Ok(())
    });
}

/// Gives back what was freed and nobody has needed for a while. Call it now and then, from any
/// thread: each call does a bounded piece of work.
///
/// # Safety
/// CP1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_tick(vm: *mut Instance) -> c_int {
    let tick = |vm: &Instance| {
        if vm.vm().tick().work {
            vm.vm().work();
        }
        Ok(0)
    };
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, tick) }
}

/// Makes all freed areas unreachable, and what they had usable again. Returns the pages.
///
/// # Safety
/// CP1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_purge(vm: *mut Instance) -> usize {
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, |vm| Ok(vm.vm().purge())) }
}
