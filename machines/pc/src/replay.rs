//! The replay of a recorded kernel, on this machine.
//!
//! The script comes as a parcel in the module, with all the memory that
//! playing it takes and a device to map, so that the figures are those of the
//! replay alone. Each CPU does its own steps in their order, at its own speed.
//! What is found goes to the host as records ([`told`]), and the host reports.

mod stage;
mod told;

use crate::{boot, cpu, memory};
use core::fmt;
use core::ptr::from_ref;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use stage::{Bare, Unreachable};
use told::Before;
use vmalloc_replay::parcel::{Parcel, Player};
use vmalloc_replay::peak::Peak;
use vmalloc_replay::script::Script;
use vmalloc_replay::slots::{self, Slots};
use vmalloc_replay::worker::{Round, Worker};

/// Regions that there are here: a script may name no other.
const REGIONS: u32 = 2;

/// Why nothing was played.
pub enum NoReplay {
    /// The module is no parcel, or was played before.
    NoScript,
    /// The script wants more CPUs than there are.
    Cpus(u32),
    /// The script wants more regions than there are.
    Regions(u32),
}

impl fmt::Display for NoReplay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoReplay::NoScript => f.write_str("no script came along: vmalloc replay --machine pc brings one"),
            NoReplay::Cpus(wanted) => write!(f, "the script is for {wanted} CPUs, and {} run", cpu::count()),
            NoReplay::Regions(wanted) => write!(f, "the script has {wanted} regions; there are {REGIONS} here"),
        }
    }
}

/// What the CPUs play together.
struct Play<'p> {
    round: Round<'p, Bare>,
    cpus: u32,
    players: *mut Player<Unreachable>,
}

/// Plays what the module has; whether that could be done. How it went is for
/// the host to say.
pub fn run() -> Result<(), NoReplay> {
    static OPENED: AtomicBool = AtomicBool::new(false);
    let module = boot::module_memory();
    let bytes = (module.end - module.start) as usize;
    if bytes == 0 || OPENED.swap(true, Relaxed) {
        return Err(NoReplay::NoScript);
    }
    // SAFETY: the module's frames are nobody else's, and this is the only time.
    let opened = unsafe { Parcel::open(memory::direct(module.start), bytes) };
    let mut parcel = opened.map_err(|_| NoReplay::NoScript)?;
    suits(&parcel)?;
    let players = parcel.players().map_err(|_| NoReplay::NoScript)?;
    let [start, end] = [parcel.device.start, parcel.device.end].map(|at| module.start + at as u64);
    play(parcel, players, &Bare::new(start..end));
    Ok(())
}

fn suits(parcel: &Parcel) -> Result<(), NoReplay> {
    let regions = parcel.areas.iter().map(|area| area.place.region + 1).max().unwrap_or(0);
    match () {
        () if parcel.manner.cpus > cpu::count() => Err(NoReplay::Cpus(parcel.manner.cpus)),
        () if regions > REGIONS => Err(NoReplay::Regions(regions)),
        () => Ok(()),
    }
}

/// All rounds, and the look at the end.
fn play(parcel: Parcel, players: &mut [Player<Unreachable>], bare: &Bare) {
    let Parcel { manner, areas, steps, slots, notes, .. } = parcel;
    let (script, peak, before) = (Script { areas, steps }, Peak::default(), Before::told());
    let mut stopped = false;
    for number in 1..=manner.loops {
        slots.iter_mut().zip(slots::awaited(areas)).for_each(|(slot, awaited)| *slot = awaited);
        let round = Round::new(bare, script, Slots::new(slots, notes), &peak, number, manner.seed);
        let play = Play { round, cpus: manner.cpus, players: players.as_mut_ptr() };
        together(&play);
        stopped = play.round.is_stopped();
        if stopped || number == manner.loops {
            before.tell_end();
        }
        work(&play, 0, |worker| worker.clear());
        if stopped {
            break;
        }
    }
    tell(players, &peak, stopped);
    before.tell_left();
}

/// Each CPU plays its steps.
fn together(play: &Play<'_>) {
    println!("@start");
    let at = from_ref(play).expose_provenance();
    (1..play.cpus).for_each(|cpu| cpu::on(cpu, alone, at));
    alone(at);
    (1..play.cpus).for_each(cpu::wait);
    println!("@stop");
}

/// Plays the calling CPU's steps.
fn alone(play: usize) {
    // SAFETY: `together` waits for all who look at it.
    let play = unsafe { &*core::ptr::with_exposed_provenance::<Play<'_>>(play) };
    let cpu = cpu::index();
    work(play, cpu, |worker| worker.play(cpu, play.cpus));
}

/// Lets the player of `cpu` do `what`.
fn work(play: &Play<'_>, cpu: u32, what: impl FnOnce(&mut Worker<'_, Bare>)) {
    // SAFETY: there is one for each CPU, and it is this CPU's, or all others
    // have ended.
    let player = unsafe { &mut *play.players.add(cpu as usize) };
    what(&mut Worker::new(&play.round, player.desk()));
}

/// Sums up, and tells.
fn tell(players: &mut [Player<Unreachable>], peak: &Peak, stopped: bool) {
    let Some((first, others)) = players.split_first_mut() else { return };
    for other in others {
        first.latency.merge(other.latency);
        first.tally.merge(core::mem::take(&mut other.tally));
    }
    told::counted(&first.tally, stopped);
    told::latencies(first.latency);
    told::peaks(peak);
}
