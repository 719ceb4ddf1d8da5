//! What the tests of the machines in a process share: threads that meet at the same areas, signals in
//! the middle of calls, children, and what must add up in the end.

mod denial;
mod meeting;
mod signals;
mod work;

pub use denial::deny;
pub use meeting::{Meeting, THREADS};
pub use signals::{Bombarded, Places, anything, handled, on_signal, random};
pub use work::work;

use std::time::Duration;
use vmalloc::Vmalloc;
use vmalloc::machine::Machine;
use vmalloc::machine::frames::Frames;

/// How long a test of threads runs: HOSTED_SECONDS, or 2 seconds.
pub fn seconds() -> Duration {
    let told = std::env::var("HOSTED_SECONDS").ok();
    Duration::from_secs_f64(told.map_or(2.0, |text| text.parse().expect("HOSTED_SECONDS is a number")))
}

/// Runs `f` in a child process and returns its wait status. Where other threads run, the child must
/// neither allocate nor print: their locks are held for ever there.
pub fn in_child(f: impl FnOnce() -> u8) -> i32 {
    // SAFETY: the child calls `f`, and exits.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0);
        if child == 0 {
            libc::_exit(f().into());
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        status
    }
}

/// All frames, wherever they are, while no area lives and nothing waits.
pub fn frames_in_all<M: Machine>(vm: &Vmalloc<M>) -> usize {
    let stats = vm.stats();
    let held = stats.table_frames + stats.bookkeeping_frames + stats.reserve_frames + stats.pooled_frames;
    vm.machine().frames().free_now() + held
}

/// Everybody has stopped: no claim is left, no area and no page, and there are as many frames as there
/// were.
#[track_caller]
pub fn assert_no_area_is_left<M: Machine>(vm: &Vmalloc<M>, frames: usize) {
    vm.purge();
    assert_eq!(vm.check(), Ok(()));
    let stats = vm.stats();
    assert_eq!((stats.areas, stats.pages, stats.waiting_pages, stats.cached_pages), (0, 0, 0, 0));
    let mut list = String::new();
    vm.list(&mut list).expect("a string takes all");
    assert_eq!(list, "", "a slot with a claim is listed as unpurged");
    assert_eq!(stats.reserved_pages, 0, "a slot with a claim keeps its chunk");
    assert_eq!(frames_in_all(vm), frames);
}
