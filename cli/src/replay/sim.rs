//! The stage on simulated CPUs: real tables, and TLBs that go stale.
//!
//! Loads and stores go through the machine, which panics with both stories
//! told when one of them goes through a translation that should be gone.

use super::players::{Host, Remains};
use super::progress::Progress;
use super::recording::Recording;
use super::setup::{config, region_bytes, symbolizer};
use crate::options::Replay;
use crate::trace::script::Script;
use anyhow::{Context as _, Result};
use std::ops::Range;
use std::ptr;
use std::sync::Arc;
use std::time::Instant;
use vmalloc::Vmalloc;
use vmalloc::machine::{Context, Machine};
use vmalloc::table::X86_64;
use vmalloc::units::{PAGE_SIZE, Pfn, VirtAddr};
use vmalloc_replay::pattern::Page;
use vmalloc_replay::stage::{Stage, Told};
use vmalloc_sim::{Bank, Sim};

/// Frames of the simulated device.
const DEVICE: u64 = 64 << 20 >> 12;
/// Frames between the memory and the device.
const GAP: u64 = 1 << 20;

/// An instance on a simulated machine.
pub struct SimStage<'p> {
    progress: &'p Progress<'p>,
    recording: Option<&'p Recording<'p>>,
    start: Instant,
    sim: Sim<X86_64>,
    vm: Arc<Vmalloc<Sim<X86_64>>>,
    regions: Vec<Range<usize>>,
    device: Range<u64>,
}

/// The stage that `options` ask for, with the regions where `script` had them.
pub fn stage<'p>(
    options: &Replay,
    script: &Script,
    cpus: u32,
    progress: &'p Progress<'p>,
    recording: Option<&'p Recording<'p>>,
) -> Result<SimStage<'p>> {
    let first = Pfn((options.memory >> 12) + GAP);
    let device = Bank { first, frames: DEVICE, node: None };
    let builder = Sim::builder().cpus(cpus).node(options.memory).bank(device).seed(options.seed);
    let sim: Sim<X86_64> = builder.build();
    sim.set_symbolizer(symbolizer(script.callers.clone()));
    let starts = script.regions.iter().map(|region| region.start as usize);
    let regions: Vec<Range<usize>> =
        starts.zip(region_bytes(script)).map(|(start, bytes)| start..start + bytes).collect();
    let vm = Arc::new(Vmalloc::new(sim.clone()));
    // SAFETY: N1: nobody else maps anything on this machine; N2: nobody else
    // has the instance yet.
    sim.unbounded(|| unsafe { vm.init(config(options, &regions)) }).context("the library cannot begin")?;
    let (kicked, interrupted) = (Arc::clone(&vm), Arc::clone(&vm));
    sim.set_kick(move |_| kicked.on_kick());
    sim.set_interrupt(move |_| {
        interrupted.tick();
    });
    sim.online_all(|| vm.cpu_online());
    Ok(SimStage {
        progress,
        recording,
        start: Instant::now(),
        sim,
        vm,
        regions,
        device: first.phys()..first.offset(DEVICE).phys(),
    })
}

impl Stage for SimStage<'_> {
    type Machine = Sim<X86_64>;
    type Fault = String;

    fn vm(&self) -> &Vmalloc<Sim<X86_64>> {
        &self.vm
    }

    fn in_interrupt<R: Send>(&self, act: impl FnOnce() -> R + Send) -> R {
        self.sim.set_context(Context::HardIrq);
        let result = act();
        self.sim.set_context(Context::Task);
        result
    }

    fn store(&self, at: usize, page: &Page) -> Result<(), String> {
        self.sim.write_bytes(self.sim.cpu(), VirtAddr(at), page).map_err(|fault| fault.to_string())
    }

    fn load(&self, at: usize, page: &mut Page) -> Result<(), String> {
        self.sim.read_bytes(self.sim.cpu(), VirtAddr(at), page).map_err(|fault| fault.to_string())
    }

    fn store_frame(&self, frame: Pfn, page: &Page) {
        let to = self.sim.virt(frame).as_ptr();
        // SAFETY: M2, and the frame is ours alone.
        unsafe { ptr::copy_nonoverlapping(page.as_ptr(), to, PAGE_SIZE) }
    }

    fn load_frame(&self, frame: Pfn, page: &mut Page) {
        let from = self.sim.virt(frame).as_ptr();
        // SAFETY: M2, and the frame is ours alone.
        unsafe { ptr::copy_nonoverlapping(from, page.as_mut_ptr(), PAGE_SIZE) }
    }

    fn device(&self) -> Range<u64> {
        self.device.clone()
    }

    fn region_start(&self, region: u32) -> usize {
        self.regions[region as usize].start
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Nobody waits: one worker does all steps in their order.
    fn wait(&self, _looks: u32) {}

    fn stepped(&self) {
        self.progress.step();
        self.sim.step();
    }

    fn is_ended(&self) -> bool {
        self.progress.is_ended()
    }

    fn phase(&self, number: u32) {
        self.progress.phase(number);
    }

    fn told(&self, cpu: u32, told: Told<'_>) {
        if let Some(recording) = self.recording {
            recording.note(&self.regions, || self.now(), cpu, told);
        }
    }
}

impl Host for SimStage<'_> {
    const THREADS: bool = false;

    fn on<R>(&self, cpu: u32, act: impl FnOnce() -> R) -> R {
        self.sim.on(cpu, act)
    }

    /// The machine outlives the instance, and knows which frames are out. The
    /// other CPUs leave first: nobody could answer a kick of an instance that
    /// is being taken down.
    fn close(self) -> Remains {
        let SimStage { sim, vm, .. } = self;
        let others = 1..sim.cpus();
        others.for_each(|cpu| sim.offline(cpu, || vm.cpu_offline()));
        sim.set_cpu(0);
        sim.set_kick(|_| ());
        sim.set_interrupt(|_| ());
        let vm = Arc::into_inner(vm).expect("the handlers held the other two");
        // It takes everything apart at once: no CPU waits for it any more.
        sim.unbounded(|| drop(vm));
        Remains { frames: sim.leaked_frames(), vmas: 0 }
    }
}
