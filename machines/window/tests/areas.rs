//! Areas: what can be reached, and what cannot any more.

mod common;

use common::*;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Policy, Req};

#[test]
fn an_area_is_clear_and_guarded_on_both_sides_and_a_use_after_the_free_faults() {
    for policy in [Policy::Strict, Policy::Unmap, Policy::Keep] {
        let vm = instance(64, policy);
        for pages in [1, 2, 5, 64, 200, 1, 3] {
            let at = vm.alloc(Req::pages(pages)).expect("memory enough");
            // SAFETY: it lives.
            assert!((0..pages).all(|page| unsafe { word(at, page).read() } == 0));
            // SAFETY: as above.
            (0..pages).for_each(|page| unsafe { word(at, page).write(!0) });
            let start = at.addr().get();
            for beside in [start - 1, start + pages * PAGE_SIZE] {
                assert!(!is_readable(byte(beside)), "{pages} pages, {policy:?}");
            }
            assert!(load_faults(byte(start - 8)) && load_faults(byte(start + pages * PAGE_SIZE)));
            // SAFETY: V1: nobody uses it.
            unsafe { vm.free(at) }.unwrap();
            if policy != Policy::Strict {
                vm.purge();
            }
            assert!((0..pages).all(|page| !is_readable(word(at, page).cast())), "{pages} pages, {policy:?}");
            assert!(load_faults(at.as_ptr()));
        }
        vm.purge();
        assert_eq!(vm.check(), Ok(()));
    }
}
