//! The stage in this process: real memory, a thread a CPU.

use super::players::{Host, Remains, Vmas};
use super::progress::Progress;
use super::recording::Recording;
use super::setup::{config, region_bytes, symbolizer};
use crate::options::Replay;
use crate::trace::script::Script;
use anyhow::{Context, Result};
use std::convert::Infallible;
use std::ops::Range;
use std::time::{Duration, Instant};
use std::{fs, ptr, thread};
use vmalloc::Vmalloc;
use vmalloc::machine::Machine;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc_hosted::Hosted;
use vmalloc_replay::pattern::Page;
use vmalloc_replay::stage::{Stage, Told, unexplained_frames};

/// Bytes of the simulated device.
const DEVICE: usize = 64 << 20;

/// Looks before a waiting worker begins to sleep between them.
const EAGER_LOOKS: u32 = 1000;
const NAP: Duration = Duration::from_micros(20);

/// An instance in this process.
pub struct HostedStage<'p> {
    vm: Vmalloc<Hosted>,
    progress: &'p Progress<'p>,
    recording: Option<&'p Recording<'p>>,
    start: Instant,
    regions: Vec<Range<usize>>,
}

/// The stage that `options` ask for, with room for `script`.
pub fn stage<'p>(
    options: &Replay,
    script: &Script,
    cpus: u32,
    progress: &'p Progress<'p>,
    recording: Option<&'p Recording<'p>>,
) -> Result<HostedStage<'p>> {
    let builder = vmalloc_hosted::builder().memory(options.memory as usize).device(DEVICE).cpus(cpus);
    let builder = region_bytes(script).fold(builder, |builder, bytes| builder.region(bytes));
    let machine = builder.machine().context("the machine cannot be made")?;
    machine.set_symbolizer(Box::new(symbolizer(script.callers.clone())));
    let regions: Vec<Range<usize>> = machine.regions().collect();
    let vm = Vmalloc::new(machine);
    // SAFETY: N1: the regions are the machine's own reservations; N2: nobody
    // else has the instance yet.
    unsafe { vm.init(config(options, &regions)) }.context("the library cannot begin")?;
    Ok(HostedStage { vm, progress, recording, start: Instant::now(), regions })
}

impl Stage for HostedStage<'_> {
    type Machine = Hosted;
    type Fault = Infallible;

    fn vm(&self) -> &Vmalloc<Hosted> {
        &self.vm
    }

    fn in_interrupt<R: Send>(&self, act: impl FnOnce() -> R + Send) -> R {
        vmalloc_hosted::in_interrupt(act)
    }

    fn store(&self, at: usize, page: &Page) -> Result<(), Infallible> {
        let to = ptr::with_exposed_provenance_mut::<u8>(at);
        // SAFETY: a page of a live area of ours, which is real memory.
        unsafe { ptr::copy_nonoverlapping(page.as_ptr(), to, PAGE_SIZE) }
        Ok(())
    }

    fn load(&self, at: usize, page: &mut Page) -> Result<(), Infallible> {
        let from = ptr::with_exposed_provenance::<u8>(at);
        // SAFETY: as for storing.
        unsafe { ptr::copy_nonoverlapping(from, page.as_mut_ptr(), PAGE_SIZE) }
        Ok(())
    }

    fn store_frame(&self, frame: Pfn, page: &Page) {
        let to = self.vm.machine().virt(frame).as_ptr();
        // SAFETY: M2, and the frame is ours alone.
        unsafe { ptr::copy_nonoverlapping(page.as_ptr(), to, PAGE_SIZE) }
    }

    fn load_frame(&self, frame: Pfn, page: &mut Page) {
        let from = self.vm.machine().virt(frame).as_ptr();
        // SAFETY: M2, and the frame is ours alone.
        unsafe { ptr::copy_nonoverlapping(from, page.as_mut_ptr(), PAGE_SIZE) }
    }

    fn device(&self) -> Range<u64> {
        let (start, bytes) = self.vm.machine().device();
        start..start + bytes as u64
    }

    fn region_start(&self, region: u32) -> usize {
        self.regions[region as usize].start
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn wait(&self, looks: u32) {
        if looks < EAGER_LOOKS { thread::yield_now() } else { thread::sleep(NAP) }
    }

    fn stepped(&self) {
        self.progress.step();
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

impl Host for HostedStage<'_> {
    const THREADS: bool = true;

    fn on<R>(&self, cpu: u32, act: impl FnOnce() -> R) -> R {
        vmalloc_hosted::prefer(cpu);
        act()
    }

    fn vmas(&self) -> Option<Vmas> {
        let vmas = self.vm.machine().vmas();
        Some(Vmas { used: vmas.used, allowed: vmas.allowed })
    }

    /// The memory goes with the instance, so its frames are counted before:
    /// those that neither the frame allocator nor the library's statistics
    /// account for.
    fn close(self) -> Remains {
        let frames = unexplained_frames(&self.vm);
        let HostedStage { vm, regions, .. } = self;
        drop(vm);
        Remains { frames, vmas: left_mappings(&regions) }
    }
}

/// Mappings of this process that lie in `regions` and were made for them:
/// reservations, and memory of the machine's file.
fn left_mappings(regions: &[Range<usize>]) -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter(|line| is_ours(line, regions)).count()
}

fn is_ours(line: &str, regions: &[Range<usize>]) -> bool {
    let Some((start, rest)) = line.split_once('-') else { return false };
    let Ok(start) = usize::from_str_radix(start, 16) else { return false };
    let reserved = rest.split(' ').nth(1) == Some("---p");
    let inside = regions.iter().any(|region| region.contains(&start));
    rest.contains("/memfd:vmalloc") || (reserved && inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_from_the_mappings_of_others() {
        let region = 0x7000_0000..0x8000_0000;
        let ours = |line| is_ours(line, std::slice::from_ref(&region));
        assert!(ours("70000000-80000000 ---p 00000000 00:00 0 "));
        assert!(ours("50000000-50001000 rw-s 00000000 00:01 7   /memfd:vmalloc (deleted)"));
        assert!(!ours("70000000-70100000 rw-p 00000000 00:00 0 "), "malloc's, in the hole that we left");
        assert!(!ours("90000000-90001000 ---p 00000000 00:00 0 "));
        assert!(!ours(""));
    }
}
