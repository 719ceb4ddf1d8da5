//! What the oracle found, each by the shortest way there.

use vmalloc::table::X86_64;
use vmalloc::{Config, Req};
use vmalloc_sim::{Booted, Rates, Sim};

const START: usize = 0xffff_c900_0000_0000;

/// Two CPUs with 4 MiB; nothing happens by chance.
fn small() -> Booted<X86_64> {
    let sim = Sim::<X86_64>::builder().cpus(2).node(4 << 20).rates(Rates::NEVER).build();
    Booted::new(sim, Config::region(START..START + (1 << 30)).load_pages(4096)).unwrap()
}

#[test]
fn who_may_wait_gets_what_a_purge_frees() {
    let vm = small();
    let all = vm.alloc(Req::pages(800)).unwrap();
    // SAFETY: V1.
    unsafe { vm.free(all) }.unwrap();
    assert!(vm.stats().waiting_pages >= 800);
    vm.alloc(Req::pages(800)).unwrap();
}
