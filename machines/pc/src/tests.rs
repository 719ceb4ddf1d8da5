//! Tests on the machine itself: through its own page tables and TLBs.
//!
//! `tests` runs all, `tests NAME` those whose name has NAME in it. Each prints
//! a line for people and a record for programs. After each test the library's
//! own check has to hold, and no area may be left.

mod away;
mod contents;
mod crash;
mod device;
mod direct;
mod faults;
mod flushes;
mod frees;
mod interrupts;
mod kernel;
mod limits;
mod machine;
mod nodes;
mod random;
mod stamp;
mod stress;
mod table;
mod walk;

pub use crash::crash;
pub use stress::stress;

use crate::{boot, clock, cpu, vm};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use table::{Place, Stamped};
use vmalloc::{Gfp, Req};

/// Something was not as it has to be; what, has been printed.
#[derive(Debug)]
pub struct Wrong;

/// How a test ends.
pub type Outcome = Result<(), Wrong>;

struct Test {
    name: &'static str,
    run: fn() -> Outcome,
}

/// Ends a test, with a text, unless something is true.
macro_rules! check {
    ($that:expr, $($text:tt)*) => {
        if !$that {
            println!("  {}:{}: CPU {}: {}", file!(), line!(), $crate::cpu::index(), format_args!($($text)*));
            return Err($crate::tests::Wrong);
        }
    };
}
use check;

/// Nanoseconds after which something is said not to happen: generous, since the
/// host may have fewer CPUs than the machine, and other things to do.
const PATIENCE: u64 = 60_000_000_000;

/// What tests on other CPUs found wrong.
static WRONG: AtomicU32 = AtomicU32::new(0);

/// Notes what a CPU found that cannot end the test itself.
fn note(outcome: Outcome) {
    WRONG.fetch_add(outcome.is_err() as u32, Relaxed);
}

/// Whether no CPU has noted anything so far.
fn all_right() -> bool {
    WRONG.load(Relaxed) == 0
}

/// A list of tests, each named as its function.
macro_rules! tests {
    ($($module:ident: $($name:ident)*;)*) => {
        &[$($(Test { name: stringify!($name), run: $module::$name }),*),*]
    };
}

const ALL: &[Test] = tests! {
    machine:
        every_cpu_does_what_it_is_given
        an_nmi_comes_to_a_cpu_that_is_idle
        a_cpu_in_the_wrong_state_is_named
        a_probe_survives_a_page_fault
        the_red_zone_and_sse_survive_nested_traps;
    contents:
        what_one_cpu_writes_all_read_through_their_own_tables
        frames_that_are_mapped_twice_are_the_same_memory
        code_in_the_modules_region_runs_and_cannot_be_written
        code_that_is_written_in_place_runs_when_it_cannot_be_written_any_more;
    walk:
        the_tables_lead_where_the_library_says
        no_page_of_the_image_is_writable_and_executable;
    faults:
        the_pages_before_and_after_an_area_fault
        a_store_to_pages_that_became_read_only_faults_on_every_cpu
        under_strict_a_use_after_free_faults_at_once
        under_unmap_a_use_after_free_faults_after_the_flush
        under_park_and_keep_a_use_after_free_faults_after_unmap_aliases
        under_park_and_keep_an_area_that_comes_again_was_cached;
    frees:
        what_another_cpu_frees_comes_back
        a_pair_on_one_cpu_locks_no_line_that_others_write
        a_free_on_another_cpu_locks_two_lines_that_others_write
        a_double_free_on_two_cpus_is_refused_once;
    flushes:
        whoever_reads_a_live_area_reads_that_area
        a_busy_cpu_answers_a_kick_without_a_tick
        nothing_is_reused_before_every_cpu_has_flushed
        a_flush_of_ranges_forgets_them;
    away:
        an_idle_cpu_is_not_kicked_and_forgets_before_it_looks
        an_nmi_in_an_idle_cpu_forgets_before_it_looks
        an_offline_cpu_is_not_waited_for_and_forgets_before_it_looks;
    interrupts:
        interrupts_free_and_allocate_in_the_middle_of_tasks;
    limits:
        frames_run_out_and_come_back
        a_small_region_runs_full_and_is_emptied;
    device:
        all_cpus_write_and_read_devices
        a_mapped_device_shows_its_frames_and_is_busy;
    kernel:
        each_age_makes_memory_that_every_cpu_reads_and_that_faults_after_its_end
        the_walk_by_level_leads_where_the_hardware_goes
        parts_of_a_sparse_area_come_and_go_and_holes_fault
        an_area_that_is_resized_keeps_its_bytes_and_gives_its_tail_back
        cpus_share_the_slab_and_blocks_wait_for_their_grace_period
        a_reader_of_devices_and_holes_reads_zeros;
    direct:
        no_cpu_stores_by_the_direct_map_to_what_became_read_only
        an_area_that_was_executable_gives_its_direct_mapping_back;
    nodes:
        memory_comes_from_the_node_that_is_asked;
    stress:
        every_page_keeps_its_areas_stamp;
};

/// Runs the tests whose name has `name` in it; true if all were right, and
/// there was one.
pub fn run(name: &str) -> bool {
    let chosen = || ALL.iter().filter(|test| test.name.contains(name));
    let right = chosen().filter(|test| test.passes()).count();
    println!("{right} of {} tests were right", chosen().count());
    right > 0 && right == chosen().count()
}

impl Test {
    fn passes(&self) -> bool {
        let start = clock::ns();
        WRONG.store(0, Relaxed);
        let ended = (self.run)().and_then(|()| settled());
        vm().set_policy(boot::settings().policy);
        let right = ended.is_ok() && all_right();
        let (ms, word) = ((clock::ns() - start) / 1_000_000, if right { "ok" } else { "failed" });
        println!("{word:<6} {} ({ms} ms)", self.name);
        println!("@test name={} result={word} ms={ms}", self.name);
        right
    }
}

/// After a test only the stacks live, and the library finds nothing wrong.
fn settled() -> Outcome {
    vm().purge();
    check!(vm().check().is_ok(), "{:?}", vm().check());
    let (areas, stacks) = (vm().areas().count(), cpu::count() as usize);
    check!(areas == stacks, "{areas} areas live, for {stacks} stacks");
    Ok(())
}

/// Puts an area into an empty place.
fn put(place: &Place, area: Stamped) -> Outcome {
    place.put(area).map_err(|_| {
        println!("  a place was not empty");
        Wrong
    })
}

/// An area of `pages`, stamped.
fn stamped(pages: usize, gfp: Gfp) -> Option<Stamped> {
    let at = vm().alloc(Req::pages(pages).gfp(gfp)).ok()?;
    let area = Stamped { at, pages, salt: stamp::salt() };
    stamp::write(at, pages, area.salt);
    Some(area)
}

/// As [`stamped`], where nothing else may happen.
fn made(pages: usize) -> Result<Stamped, Wrong> {
    let area = stamped(pages, Gfp::KERNEL);
    check!(area.is_some(), "no area of {pages} pages");
    area.ok_or(Wrong)
}

impl Stamped {
    fn verify(&self) -> Outcome {
        stamp::verify(self.at, self.pages, self.salt)
    }

    fn free(self) -> Outcome {
        // SAFETY: V1: whoever has the record has the area, and uses it no more,
        // but for probes, which may fault.
        let freed = unsafe { vm().free(self.at) };
        check!(freed.is_ok(), "{freed:?}");
        Ok(())
    }
}
