//! The shortest way through everything.

use vmalloc::{Config, Req, Vmalloc, What};
use vmalloc::table::X86_64;
use vmalloc::units::VirtAddr;
use vmalloc_sim::Sim;

const START: usize = 0xffff_c900_0000_0000;

struct Shared(*const Vmalloc<Sim<X86_64>>);
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}
impl Shared {
    fn vm(&self) -> &Vmalloc<Sim<X86_64>> {
        // SAFETY: the box outlives every kick.
        unsafe { &*self.0 }
    }
}

fn machine(cpus: u32) -> (Sim<X86_64>, Box<Vmalloc<Sim<X86_64>>>) {
    let sim = Sim::<X86_64>::builder().cpus(cpus).seed(7).build();
    let vm = Box::new(Vmalloc::new(sim.clone()));
    let shared = Shared(&*vm);
    sim.set_kick(move |_| shared.vm().on_kick());
    // SAFETY: N1, N2: the machine is new.
    unsafe { vm.init(Config::region(START..START + (1 << 39))) }.unwrap();
    sim.online_all(|| vm.cpu_online());
    (sim, vm)
}

#[test]
fn an_area_is_made_used_freed_and_nothing_remains() {
    let (sim, vm) = machine(2);
    let at = vm.alloc(Req::bytes(5000)).unwrap();
    let addr = VirtAddr(at.addr().get());
    vm.check().unwrap();
    sim.store(0, addr, 42).unwrap();
    assert_eq!(sim.load(1, addr), Ok(42));
    sim.assert_faults(0, addr.add_pages(2));
    assert!(matches!(vm.whatis(addr.0 + 4999), What::Inside { offset: 4999, .. }));
    let mut list = String::new();
    vm.list(&mut list).unwrap();
    println!("{list}");
    unsafe { vm.free(at) }.unwrap();
    println!("{:?}", unsafe { vm.free(at) });
    vm.purge();
    println!("{:?}", vm.stats());
    vm.check().unwrap();
    println!("{:?}", sim.take_log());
    drop(vm);
    println!("{:?}", sim.take_log());
    sim.assert_no_leaks();
}

#[test]
fn many_sizes() {
    let (sim, vm) = machine(2);
    let mut live = vec![];
    for round in 0..2000usize {
        sim.set_cpu((round % 2) as u32);
        let pages = 1 + round * 7919 % 700;
        if let Ok(at) = vm.alloc(Req::pages(pages)) {
            sim.store(0, VirtAddr(at.addr().get()), round as u64).unwrap();
            live.push((at, round as u64));
        }
        if live.len() > 20 {
            let (at, stamp) = live.swap_remove(round * 31 % live.len());
            assert_eq!(sim.load(1, VirtAddr(at.addr().get())), Ok(stamp));
            unsafe { vm.free(at) }.unwrap();
        }
        if round % 64 == 0 {
            vm.check().unwrap();
            vm.tick();
        }
    }
    println!("{:?}", vm.stats());
    println!("{:?}", sim.take_log());
    drop(vm);
    println!("{:?}", sim.take_log());
    sim.assert_no_leaks();
}
