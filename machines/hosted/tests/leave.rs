//! An instance leaves nothing behind. Alone in its process: it looks at all of
//! the process's mappings and open files.

mod common;

use common::{frame, maps, run};
use vmalloc::Req;
use vmalloc::area::RegionId;
use vmalloc::machine::{Flush, Machine};
use vmalloc_hosted::builder;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A machine with bindings that live and others that wait to go.
fn machine() -> impl Sized {
    let machine = builder().memory(16 << 20).device(4096).region(16 << 20).region(1 << 20).machine().unwrap();
    for i in 0..100 {
        machine.mirror(run(&machine, 3 * i, 2, frame(i % 20))).unwrap();
    }
    machine.unmapped(run(&machine, 0, 2, 0).pages);
    assert!(machine.flush_everywhere(Flush::Everything));
    machine.unmapped(run(&machine, 3, 2, 0).pages);
    machine
}

/// An instance with areas that live and others that wait to go.
fn instance() -> impl Sized {
    let vm = builder().memory(64 << 20).region(1 << 30).region(1 << 20).build().unwrap();
    let areas: Vec<_> = (1..40).map(|pages| vm.alloc(Req::pages(pages)).unwrap()).collect();
    vm.alloc(Req::pages(3).region(RegionId(1))).unwrap();
    // SAFETY: V1.
    areas.iter().step_by(2).for_each(|&area| unsafe { vm.free(area) }.unwrap());
    vm
}

fn leaves_nothing<T>(make: impl Fn() -> T) {
    // Once before, for all that is made once a process.
    drop(make());
    let before = (maps().len(), open_files());
    let made = make();
    assert!(maps().len() > before.0 + 10);
    assert_eq!(open_files(), before.1 + 1, "the file, of which code may have to be mapped later");
    drop(made);
    assert_eq!((maps().len(), open_files()), before);
    assert!(!maps().iter().any(|line| line.contains("memfd:vmalloc")));
}

#[test]
fn what_is_dropped_with_live_and_waiting_areas_unmaps_them() {
    leaves_nothing(machine);
    leaves_nothing(instance);
}
