//! CPUs that are away, idle or offline: nobody waits for them, and they forget
//! before they look (G5).
//!
//! One CPU uses an area and goes away. Meanwhile the area is freed and another
//! one made, at the same address but of another frame. When it is back it looks
//! again: its TLB, if it has not been flushed, still knows the old frame.

use super::table::{Place, Stamped};
use super::{Outcome, Wrong, check, made, note};
use crate::cpu::{self, apic, local};
use crate::trap::NMI_HOOK;
use crate::{boot, clock, vm};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use vmalloc::{Gfp, Policy};
use vmalloc_x86_64::interrupts;

static AREA: Place = Place::new();
/// What is made on the way to an area at a certain address.
static HELD: [Place; 512] = [const { Place::new() }; 512];
/// The CPU is offline.
static AWAY: AtomicBool = AtomicBool::new(false);
/// It is to come back.
static BACK: AtomicBool = AtomicBool::new(false);
/// It has looked.
static LOOKED: AtomicBool = AtomicBool::new(false);

pub fn an_idle_cpu_is_not_kicked_and_forgets_before_it_looks() -> Outcome {
    away(go_idle, |cpu| {
        cpu::on(cpu, |_| note(look()), 0);
        cpu::wait(cpu);
    })
}

pub fn an_nmi_in_an_idle_cpu_forgets_before_it_looks() -> Outcome {
    NMI_HOOK.set(|| {
        note(look());
        LOOKED.store(true, SeqCst);
    });
    let outcome = away(go_idle, |cpu| {
        LOOKED.store(false, SeqCst);
        apic::nmi(local::of(cpu).apic());
        while !LOOKED.load(SeqCst) {
            spin_loop();
        }
    });
    NMI_HOOK.clear();
    outcome
}

pub fn an_offline_cpu_is_not_waited_for_and_forgets_before_it_looks() -> Outcome {
    away(go_offline, |cpu| {
        BACK.store(true, SeqCst);
        cpu::wait(cpu);
    })
}

/// The last CPU goes `away` and comes `back`, some times.
fn away(away: fn(u32), back: fn(u32)) -> Outcome {
    let last = cpu::count() - 1;
    if last == 0 {
        return Ok(());
    }
    vm().set_policy(Policy::Unmap);
    set_tick(last, 0);
    let outcome = (0..20).try_for_each(|_| {
        vm().purge();
        // It keeps the table that the area is in: a purge waits for idle CPUs,
        // too, where tables go.
        let neighbour = made(1)?;
        let outcome = forgets(last, away, back);
        neighbour.free()?;
        outcome
    });
    set_tick(last, boot::settings().tick);
    outcome
}

fn set_tick(cpu: u32, ns: u32) {
    cpu::on(cpu, |ns| clock::tick_every(ns as u32), ns as usize);
    cpu::wait(cpu);
}

fn forgets(cpu: u32, away: fn(u32), back: fn(u32)) -> Outcome {
    let area = made(1)?;
    super::put(&AREA, area)?;
    away(cpu);
    let kicks = cpu::counters(cpu).kicks.load(SeqCst);
    let new = replaced(area);
    let kicked = cpu::counters(cpu).kicks.load(SeqCst) - kicks;
    AREA.take();
    if let Ok(new) = new {
        super::put(&AREA, new)?;
    }
    back(cpu);
    AREA.take();
    new?.free()?;
    check!(kicked == 0, "a CPU that was away was kicked {kicked} times");
    Ok(())
}

fn look() -> Outcome {
    AREA.look().map_or(Ok(()), |area| area.verify())
}

/// The CPU looks, and is idle; it has no tick to wake it.
fn go_idle(cpu: u32) {
    cpu::on(cpu, |_| note(look()), 0);
    cpu::wait(cpu);
    while !local::of(cpu).is_idle() {
        spin_loop();
    }
    clock::delay_us(10_000);
}

/// The CPU looks, is offline until told to come back, and looks again.
fn go_offline(cpu: u32) {
    AWAY.store(false, SeqCst);
    BACK.store(false, SeqCst);
    cpu::on(cpu, |_| note(look_offline_look()), 0);
    while !AWAY.load(SeqCst) {
        spin_loop();
    }
}

fn look_offline_look() -> Outcome {
    let outcome = look();
    let flags = interrupts::off();
    vm().cpu_offline();
    AWAY.store(true, SeqCst);
    // M9: no area from here on, but its own stack (G5).
    while !BACK.load(SeqCst) {
        spin_loop();
    }
    vm().cpu_online();
    interrupts::restore(flags);
    outcome.and_then(|()| look())
}

/// Frees `area` and makes another one, at the same address and of another
/// frame. What else is made on the way is freed again.
fn replaced(area: Stamped) -> Result<Stamped, Wrong> {
    let frame = vm().frame_at(area.at.addr().get());
    area.free()?;
    vm().purge();
    // The frame that came back last is given out first: it is put aside.
    let aside = vm().alloc_frame(Gfp::KERNEL, None).map_err(|_| Wrong)?;
    let mut new = None;
    for place in &HELD {
        match made(1)? {
            again if again.at == area.at => new = Some(again),
            other => super::put(place, other)?,
        }
    }
    // SAFETY: P3: ours, and not used.
    unsafe { vm().free_frame(aside) }
    HELD.iter().filter_map(Place::take).try_for_each(Stamped::free)?;
    let Some(new) = new else {
        println!("  {:#x} did not come again", area.at.addr());
        return Err(Wrong);
    };
    check!(vm().frame_at(new.at.addr().get()) != frame, "the frame is the same: nothing could be told");
    Ok(new)
}
