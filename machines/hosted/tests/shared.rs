//! Areas without a lifetime.

use std::mem::MaybeUninit;
use std::sync::{Arc, Weak};
use vmalloc::{AllocError, Policy, Vmalloc};
use vmalloc_hosted::{Hosted, SharedArea, builder};

fn instance() -> Arc<Vmalloc<Hosted>> {
    Arc::new(builder().memory(32 << 20).region(1 << 30).policy(Policy::Keep).build().unwrap())
}

#[test]
fn an_area_outlives_whoever_made_it_and_its_instance_goes_with_the_last() {
    let vm = instance();
    let watch: Weak<_> = Arc::downgrade(&vm);
    let mut areas: Vec<SharedArea> = (1..20).map(|n| SharedArea::zeroed(&vm, n * 5000).unwrap()).collect();
    drop(vm);
    assert!(areas.iter().all(|area| area.iter().all(|&byte| byte == 0)));
    let last = areas.pop().unwrap();
    let thread = std::thread::spawn(move || {
        areas.iter_mut().for_each(|area| area.fill(3));
        areas.iter().map(|area| area.len()).sum::<usize>()
    });
    assert_eq!(thread.join().unwrap(), (1..19).map(|n| n * 5000).sum());
    assert_eq!((last.vm().areas().count(), last.vm().check()), (1, Ok(())));
    drop(last);
    assert!(watch.upgrade().is_none());
}

#[test]
fn bytes_that_nobody_has_written_are_not_cleared_and_become_initialised() {
    let vm = instance();
    let mut first = SharedArea::zeroed(&vm, 40_000).unwrap();
    first.fill(9);
    let (start, bytes) = (first.start(), 40_000);
    drop(first);
    let mut area = SharedArea::uninit(&vm, bytes).unwrap();
    assert_eq!((area.start(), area.len()), (start, bytes), "the cached one, as it was left");
    area.iter_mut().enumerate().for_each(|(n, byte)| _ = byte.write(n as u8));
    // SAFETY: all were written just now.
    let area = unsafe { area.assume_init() };
    assert!(area.iter().enumerate().all(|(n, &byte)| byte == n as u8));
    assert_eq!(Arc::strong_count(&vm), 2);
    drop(area);
    assert_eq!((vm.areas().count(), Arc::strong_count(&vm)), (0, 1));
    let gone: SharedArea<MaybeUninit<u8>> = SharedArea::uninit(&vm, 1).unwrap();
    drop(gone);
}

#[test]
fn what_cannot_be_had_is_an_error_that_names_the_caller_in_the_listing_otherwise() {
    let vm = instance();
    assert!(matches!(SharedArea::zeroed(&vm, 1 << 30), Err(AllocError::TooLarge { .. })));
    assert_eq!(SharedArea::zeroed(&vm, 0).err(), Some(AllocError::ZeroSize));
    let area = SharedArea::zeroed(&vm, 1).unwrap();
    let (line, info) = (line!() - 1, vm.find(area.start().0).unwrap());
    assert_eq!(format!("{:?}", info.caller), format!("{}:{line}", file!()));
    assert_eq!(Arc::strong_count(&vm), 2, "a refusal holds nothing");
}
