//! Memory, CPUs, the address space, policies.

use super::Done;
use super::words::{Complaint, Words};
use crate::memory::{self, Summary};
use crate::{boot, clock, cpu, vm};
use core::fmt;
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;
use vmalloc::area::{Info, RegionId};
use vmalloc::machine::Machine;
use vmalloc::machine::frames::Frames;
use vmalloc::units::PAGE_SIZE;
use vmalloc_kernel::layout::X86_64;

/// Cells of the drawing of a region.
const CELLS: usize = 64;

pub fn mem<'t>(_: &mut Words<'t>) -> Done<'t> {
    let zones = vm().machine().zones();
    println!("{Summary}");
    println!("node zone       frames     free  kept back  free blocks of 1, 2, 4 … frames");
    let pinned = vm().machine().pin();
    for zone in zones.stats() {
        print!("{:>4} {:<8?} {:>8} {:>8} {:>10} ", zone.node.0, zone.zone, zone.total, zone.free, zone.reserve);
        zone.blocks.iter().for_each(|count| print!(" {count}"));
        println!();
    }
    // SAFETY: M4: of the call above.
    unsafe { vm().machine().unpin(pinned) }
    let stats = vm().stats();
    let used = zones.total() - zones.free_now();
    println!(
        "{} of {} free; {used} in use: {} of areas, {} wait for a flush, {} bound in freed areas, {} stocked, \
         {} kept for interrupts, {} tables, {} bookkeeping",
        Bytes(zones.free_now() * PAGE_SIZE),
        Bytes(zones.total() * PAGE_SIZE),
        stats.pages,
        stats.waiting_pages,
        stats.cached_pages,
        stats.pooled_frames,
        stats.reserve_frames,
        stats.table_frames,
        stats.bookkeeping_frames,
    );
    Ok(())
}

pub fn stats<'t>(_: &mut Words<'t>) -> Done<'t> {
    println!("{:#?}", vm().stats());
    Ok(())
}

pub fn cpus<'t>(_: &mut Words<'t>) -> Done<'t> {
    println!("CPU node   flushes    ranges     kicks      sent     ticks    faults      NMIs");
    for cpu in 0..cpu::count() {
        let of = cpu::counters(cpu);
        print!("{cpu:>3} {:>4}", cpu::node_of(cpu).0);
        for counter in [&of.flushes, &of.ranges, &of.kicks, &of.kicks_sent, &of.ticks, &of.faults, &of.nmis] {
            print!(" {:>9}", counter.load(Relaxed));
        }
        println!();
    }
    Ok(())
}

pub fn policy<'t>(words: &mut Words<'t>) -> Done<'t> {
    if let Some(name) = words.next() {
        vm().set_policy(boot::policy(name).ok_or(Complaint::Unknown(name))?);
    }
    println!("policy {:?}", vm().policy());
    Ok(())
}

pub fn sleep<'t>(words: &mut Words<'t>) -> Done<'t> {
    (0..words.number("how many seconds")?).for_each(|_| clock::delay_us(1_000_000));
    Ok(())
}

pub fn purge<'t>(_: &mut Words<'t>) -> Done<'t> {
    let before = vm().stats();
    vm().purge();
    let after = vm().stats();
    let gone = (before.waiting_pages + before.cached_pages).saturating_sub(after.waiting_pages + after.cached_pages);
    println!("{gone} pages of freed areas given back, after {} flushes", after.counts.since(&before.counts).flushes);
    Ok(())
}

pub fn map<'t>(_: &mut Words<'t>) -> Done<'t> {
    let mut below = None;
    for (name, range) in memory::map() {
        if let Some(gap) = below.map(|end| range.start - end).filter(|&gap| gap > 0) {
            println!("{:>20} {}", "⋮", Bytes(gap));
        }
        println!("{:#018x} ┌ {name}, {}", range.start, Bytes(range.end - range.start));
        if let Some(region) = [vm().machine().region(), memory::MODULES].iter().position(|region| *region == range) {
            draw(RegionId(region as u8), &range);
        }
        println!("{:#018x} └", range.end);
        below = Some(range.end);
    }
    Ok(())
}

/// The parts of the address space with sizes and holes, and how many addresses kernels of this
/// kind have for each.
pub fn layout<'t>(_: &mut Words<'t>) -> Done<'t> {
    let layout = X86_64 { levels: memory::levels() }.layout().map_err(Complaint::NoLayout)?;
    println!("{}", layout.machine);
    let mut below = None;
    for (name, part) in memory::map() {
        if let Some(end) = below.filter(|&end| end < part.start) {
            println!("{end:#018x}-{:#018x}   hole of {}", part.start, Bytes(part.start - end));
        }
        print!("{:#018x}-{:#018x} {name}, {}", part.start, part.end, Bytes(part.end - part.start));
        match layout.parts().iter().find(|all| (all.start..all.end).contains(&(part.start as u64))) {
            Some(all) => println!(" of {}", Bytes(all.bytes() as usize)),
            None => println!(),
        }
        below = Some(part.end);
    }
    Ok(())
}

/// The areas of a region: how many, and where they lie.
fn draw(region: RegionId, range: &Range<usize>) {
    let live = || vm().areas().filter(|area| area.region == region);
    let end = live().map(|area| area.start.0 + area.size()).max().unwrap_or(range.start);
    let pages: usize = live().map(|area| area.pages).sum();
    println!("{:>20} {} areas of {pages} pages, in the first {}", "│", live().count(), Bytes(end - range.start));
    if end > range.start {
        let cell = (end - range.start).div_ceil(CELLS);
        print!("{:>20} ", "│");
        for at in (range.start..end).step_by(cell) {
            let covers = |area: Info| area.start.0 < at + cell && at < area.start.0 + area.size();
            print!("{}", if live().any(covers) { '█' } else { '·' });
        }
        println!("  each {}", Bytes(cell));
    }
}

/// Bytes in the unit that people would take.
struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let power = (self.0.max(1).ilog2() / 10).min(5) as usize;
        let (whole, rest) = (self.0 >> (10 * power), self.0 & ((1 << (10 * power)) - 1));
        match (rest * 10) >> (10 * power) {
            0 => write!(f, "{whole} {}", units[power]),
            tenths => write!(f, "{whole}.{tenths} {}", units[power]),
        }
    }
}
