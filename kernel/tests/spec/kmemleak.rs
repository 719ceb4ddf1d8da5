//! The leak detector, on a simulated machine whose events it hears.

use crate::common::REGION;
pub use crate::common::{GFP, Machine, PAGE, at, number};
use std::fmt;
pub use std::ptr::with_exposed_provenance_mut;
pub use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use vmalloc::machine::event::Event;
use vmalloc::units::VirtAddr;
use vmalloc::{Config, Vmalloc};
pub use vmalloc_kernel::kmemleak::{Colour, Kmemleak, Origin, Root, RootKind};
pub use vmalloc_kernel::{Host, Kernel};
use vmalloc_kernel::{Kern, WithEvents};
use vmalloc_sim::{Rates, Sim, SoloLock};

pub type Hears = Box<dyn Fn(&Machine, Event) -> Result<(), i32> + Send + Sync>;
pub type Told = WithEvents<Machine, Hears>;
pub type Tested<'v> = Kernel<'v, Told, Roots<'v>>;

pub const SECOND: u64 = 1_000_000_000;
/// Words of the data, and of the stack.
const WORDS: usize = 64;

/// An instance whose machine hands its events to a detector; nothing remains when it is dropped.
pub struct Rig {
    pub sim: Machine,
    pub vm: Option<Vmalloc<Told>>,
    pub leaks: Option<Arc<Kmemleak<SoloLock>>>,
    /// Whether the detector hears of events.
    pub hears: Arc<AtomicBool>,
    pub data: [AtomicUsize; WORDS],
    pub stack: [AtomicUsize; WORDS],
}

pub fn rig() -> Rig {
    let sim: Machine = Sim::builder().rates(Rates::NEVER).build();
    // A copy of a constant, as a static would be: padding made at run time may hold addresses that
    // other tests have left on the stack.
    #[allow(clippy::declare_interior_mutable_const, reason = "each test has a copy of its own")]
    const NEW: Kmemleak<SoloLock> = Kmemleak::new();
    let leaks = Arc::new(NEW);
    let hears = Arc::new(AtomicBool::new(true));
    let (heard, ear) = (leaks.clone(), hears.clone());
    let hear: Hears = Box::new(move |machine, event| {
        if ear.load(SeqCst) {
            heard.note(machine, event, || Origin::new("kthreadd", 2, &[]));
        }
        Ok(())
    });
    let vm = Vmalloc::new(WithEvents::new(sim.clone(), hear));
    // SAFETY: N1: the tables are new; N2: nobody knows the instance.
    sim.unbounded(|| unsafe { vm.init(Config::region(REGION)) }).expect("memory for the bookkeeping");
    sim.online_all(|| vm.cpu_online());
    let none = || std::array::from_fn(|_| AtomicUsize::new(0));
    Rig { sim, vm: Some(vm), leaks: Some(leaks), hears, data: none(), stack: none() }
}

impl Rig {
    pub fn vm(&self) -> &Vmalloc<Told> {
        self.vm.as_ref().expect("it lives until the rig is dropped")
    }

    pub fn leaks(&self) -> &Kmemleak<SoloLock> {
        self.leaks.as_ref().expect("it lives until the rig is dropped")
    }

    pub fn kernel(&self) -> Tested<'_> {
        let host = Roots { data: &self.data, stack: &self.stack, leaks: self.leaks(), lines: Mutex::default() };
        Kernel::new(self.vm(), host).with_kmemleak(self.leaks())
    }

    /// Word `n` of the data points there.
    pub fn point(&self, n: usize, to: usize) {
        self.data[n].store(to, SeqCst);
    }

    pub fn colour(&self, at: usize) -> Option<Colour> {
        self.leaks().colour(&self.sim, at)
    }

    #[track_caller]
    pub fn assert_colours(&self, objects: &[(usize, Colour)]) {
        let found: Vec<_> = objects.iter().map(|&(at, _)| (at, self.colour(at).expect("an object"))).collect();
        assert_eq!(found, objects);
    }

    /// Scans until the checksums of now are known: two scans, of objects that are old enough.
    pub fn scan(&self, kernel: &Tested<'_>) -> usize {
        self.sim.advance(6 * SECOND);
        kernel.kmemleak_scan() + kernel.kmemleak_scan()
    }

    /// Writes a word into an area.
    pub fn store(&self, to: usize, word: usize) {
        self.sim.store(0, VirtAddr(to), word as u64).expect("a live page");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let vm = self.vm.take();
        if std::thread::panicking() {
            return std::mem::forget(vm);
        }
        self.sim.unbounded(|| drop(vm));
        let mut leaks = self.leaks.take().and_then(Arc::into_inner).expect("the machine is gone");
        leaks.give_back(&self.sim);
        assert_eq!(leaks.len(&self.sim), 0);
        self.sim.assert_no_leaks();
    }
}

/// A host with data and a stack.
pub struct Roots<'r> {
    data: &'r [AtomicUsize],
    stack: &'r [AtomicUsize],
    /// The detector is a root as well, as one that is a static would be.
    leaks: &'r Kmemleak<SoloLock>,
    lines: Mutex<Vec<String>>,
}

impl Roots<'_> {
    pub fn said(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().unwrap())
    }
}

impl Host for Roots<'_> {
    fn printk(&self, _level: Kern, line: fmt::Arguments<'_>) -> bool {
        self.lines.lock().unwrap().push(line.to_string());
        true
    }
    fn comm(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("insmod")
    }
    fn pid(&self) -> u32 {
        1234
    }
    fn stack(&self, into: &mut [usize]) -> usize {
        into[..2].copy_from_slice(&[0xffff_ffff_8100_0010, 0xffff_ffff_8100_0020]);
        2
    }
    fn root(&self, n: usize) -> Option<Root> {
        if n == 2 {
            let start = std::ptr::from_ref(self.leaks).expose_provenance();
            // SAFETY: Y8: the detector outlives the host.
            return Some(unsafe { Root::memory(RootKind::Data, start, size_of_val(self.leaks)) });
        }
        let (kind, words) = [(RootKind::Data, self.data), (RootKind::Stack, self.stack)].get(n).copied()?;
        // SAFETY: Y8: the words outlive the host.
        Some(unsafe { Root::memory(kind, words.as_ptr().expose_provenance(), size_of_val(words)) })
    }
}

/// An object of 64 bytes, cleared.
pub fn object(kernel: &Tested<'_>) -> usize {
    kernel.kzalloc(64, GFP).map(number).unwrap()
}

/// Word `n` of an object of the slab becomes this.
pub fn set(object: usize, n: usize, word: usize) {
    // SAFETY: the test's own object, which has more words.
    unsafe { with_exposed_provenance_mut::<usize>(object).add(n).write(word) };
}

pub fn kfree(kernel: &Tested<'_>, object: usize) {
    // SAFETY: Y1: tests use what they hold.
    unsafe { kernel.kfree(at(object)) }.unwrap();
}

pub fn vfree(kernel: &Tested<'_>, area: usize) {
    // SAFETY: Y1: as above.
    unsafe { kernel.vfree(at(area)) }.unwrap();
}

pub fn pages(n: usize) -> usize {
    n * PAGE
}

#[test]
fn with_events_hands_every_call_of_the_machine_on() {
    let told = include_str!("../../src/events.rs");
    let asked = include_str!("../../../vmalloc/src/machine.rs");
    let asked =
        asked.split("pub unsafe trait Machine").nth(1).unwrap().split("pub unsafe trait Addressable").next().unwrap();
    let names = |text: &'static str, before: &str| -> Vec<&str> {
        text.split(before).skip(1).map(|rest| rest.split(['(', ':']).next().unwrap()).collect()
    };
    let mut calls = names(asked, "fn ");
    calls.extend(names(asked, "const "));
    assert!(calls.len() > 25, "{calls:?}");
    for call in calls {
        assert!(
            told.contains(&format!(".{call}(")) || told.contains(&format!("M::{call};")),
            "{call} is not handed on"
        );
    }
    let rig = rig();
    assert_eq!(rig.vm().machine().inner().cpu(), 0);
}
