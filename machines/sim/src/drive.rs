//! Driving the CPUs: who runs, who sleeps, what comes in between.

use crate::cpu::{Hook, Power, State};
use crate::history::Event;
use crate::judge::accuse;
use crate::walk::{Place, covered};
use crate::{Core, Counters, ORDER, Work, turn};
use core::fmt;
use std::sync::Arc;
use vmalloc::error::Shortage;
use vmalloc::gfp::Gfp;
use vmalloc::machine::format::{Entry, Format, entries};
use vmalloc::machine::{Context, Level};
use vmalloc::units::{PAGE_SHIFT, Pfn, VirtAddr};

/// Interrupts that can be inside each other.
const NESTING: u32 = 2;
/// A kick is served once in so many chances.
pub(crate) const KICK_LAG: u64 = 4;

impl<F: Format> Core<F> {
    /// The CPU that runs.
    pub fn cpu(&self) -> u32 {
        self.running()
    }

    /// Goes on as `cpu`.
    pub fn set_cpu(&self, cpu: u32) {
        let s = &mut *self.state();
        assert!((cpu as usize) < s.cpus.len(), "there is no CPU {cpu}");
        s.turns = 0;
        self.run_on(cpu);
    }

    /// Runs `act` as `cpu`, and goes back.
    pub fn on<T>(&self, cpu: u32, act: impl FnOnce() -> T) -> T {
        let was = self.run_on(cpu);
        let result = act();
        self.run_on(was);
        result
    }

    /// Whether `cpu` runs.
    pub fn power(&self, cpu: u32) -> Power {
        self.state().cpu(cpu).power
    }

    /// `cpu` comes online; `enter` is its call of `cpu_online`, after which
    /// it may not remember anything stale.
    pub fn online(&self, cpu: u32, enter: impl FnOnce()) {
        self.change(cpu, Power::Offline, Power::Awake, Event::Online, enter);
    }

    /// `cpu` goes offline; `leave` is its call of `cpu_offline`.
    pub fn offline(&self, cpu: u32, leave: impl FnOnce()) {
        self.change(cpu, Power::Awake, Power::Offline, Event::Offline, leave);
    }

    /// `cpu` falls asleep; `enter` is its call of `idle_enter`.
    pub fn sleep(&self, cpu: u32, enter: impl FnOnce()) {
        // It touches no area any more: others may skip it from a point inside the call on (G5).
        self.masked(cpu, Power::Awake, || {
            self.set_power(cpu, (Power::Awake, Power::Idle), Event::Idle);
            self.on(cpu, enter);
        });
    }

    /// `cpu` wakes up; `exit` is its call of `idle_exit`, after which it may
    /// not remember anything stale.
    pub fn wake(&self, cpu: u32, exit: impl FnOnce()) {
        self.change(cpu, Power::Idle, Power::Awake, Event::Awake, exit);
    }

    /// All CPUs come online, one after the other.
    pub fn online_all(&self, mut enter: impl FnMut()) {
        let cpus = self.state().cpus.len() as u32;
        (0..cpus).for_each(|cpu| self.online(cpu, &mut enter));
    }

    /// Runs `call` on `cpu` with interrupts off, then changes its power.
    fn change(&self, cpu: u32, from: Power, to: Power, event: Event, call: impl FnOnce()) {
        self.masked(cpu, from, || {
            self.on(cpu, call);
            self.set_power(cpu, (from, to), event);
        });
    }

    /// Runs `call` for `cpu`, whose power is `from`, with interrupts off there.
    fn masked(&self, cpu: u32, from: Power, call: impl FnOnce()) {
        assert_eq!(self.power(cpu), from, "CPU {cpu} cannot change its power");
        self.state().cpu(cpu).masked = true;
        call();
        self.state().cpu(cpu).masked = false;
        self.judge_cpu(&self.state(), cpu);
    }

    fn set_power(&self, cpu: u32, (from, to): (Power, Power), event: Event) {
        let s = &mut *self.state();
        s.history.note(cpu, event);
        let state = s.cpu(cpu);
        state.kicked &= to != Power::Offline;
        state.power = to;
        let held: Vec<_> = state.entries().collect();
        held.iter().for_each(|entry| {
            self.count(from, entry, -1);
            self.count(to, entry, 1);
        });
    }

    /// What runs when an interrupt comes; it gets the CPU's index.
    pub fn set_interrupt(&self, handler: impl Fn(u32) + Send + Sync + 'static) {
        self.state().on_interrupt = Some(Arc::new(handler));
    }

    /// What a kicked CPU runs: the instance's `on_kick`.
    pub fn set_kick(&self, handler: impl Fn(u32) + Send + Sync + 'static) {
        self.state().on_kick = Some(Arc::new(handler));
    }

    /// The `n`-th thing from now on that the library does is interrupted by
    /// an NMI, wherever that is; `handler` gets the CPU's index. 0 = by none.
    pub fn set_nmi(&self, n: u64, handler: impl Fn(u32) + Send + Sync + 'static) {
        self.state().on_nmi = Some(Arc::new(handler));
        self.nmi.store(n, ORDER);
    }

    /// The machine's last resort when something runs short; true = try again.
    pub fn set_shortage(&self, handler: impl Fn(Shortage, Gfp) -> bool + Send + Sync + 'static) {
        self.state().on_shortage = Some(Arc::new(handler));
    }

    /// How the listing prints return addresses.
    pub fn set_symbolizer(
        &self,
        print: impl Fn(usize, &mut fmt::Formatter<'_>) -> fmt::Result + Send + Sync + 'static,
    ) {
        self.state().symbolizer = Some(Arc::new(print));
    }

    /// What [`context`](vmalloc::machine::Machine::context) says where no
    /// interrupt and no pin says otherwise.
    pub fn set_context(&self, context: Context) {
        self.state().context = context;
    }

    /// Time passes.
    pub fn advance(&self, ns: u64) {
        self.state().clock += ns;
    }

    /// Takes the lines that were logged.
    pub fn take_log(&self) -> Vec<(Level, String)> {
        core::mem::take(&mut self.state().log)
    }

    /// The events that the library has told so far.
    pub fn noted(&self) -> crate::Noted {
        self.state().noted
    }

    /// Refuses areas beyond this number of published pages.
    pub fn set_quota(&self, pages: Option<usize>) {
        self.state().noted.quota = pages;
    }

    /// From here on the machine breaks its contract.
    #[cfg(interleave)]
    pub fn break_contract(&self, how: crate::Sabotage) {
        self.state().sabotage = Some(how);
    }

    /// Overwrites the entry of `level` for `at` behind everybody's back. For
    /// tests that make their own tables.
    ///
    /// # Panics
    /// Where no table of that level is linked for `at`.
    pub fn poke(&self, at: VirtAddr, level: u8, word: F::Word) {
        let (place, _) = self.truth(at, level);
        assert_eq!(place.level, level, "no level {level} table is linked for {at}");
        let s = &mut *self.state();
        self.record(s, Event::Poked { at, level });
        s.used(at);
        if let (1, Entry::Leaf { frame, .. }) = (level, F::decode(word, level)) {
            s.told.tell(at.0 >> PAGE_SHIFT, frame);
        }
        self.write(place, at, word);
    }

    /// All roots get the entries that the library's has.
    pub fn copy_root(&self) {
        self.fill_roots(|at| self.word(self.top(), at).expect("the root is memory"));
    }

    /// What was copied into other roots than the library's goes: before the
    /// instance does.
    pub fn clear_copies(&self) {
        self.fill_roots(|_| F::ABSENT);
    }

    fn fill_roots(&self, word: impl Fn(VirtAddr) -> F::Word) {
        for &table in &self.roots[1..] {
            for index in 0..entries::<F>() {
                let at = covered::<F>(self.levels, index).start;
                self.write(Place { table, level: self.levels }, at, word(at));
            }
        }
    }

    /// What the tables say of `at`, and the level of the entry that says so.
    pub fn peek(&self, at: VirtAddr) -> (u8, Entry) {
        let (place, entry) = self.truth(at, 1);
        (place.level, entry)
    }

    /// The entry of `level` for `at`, or the one above that ends the walk.
    pub fn entry(&self, at: VirtAddr, level: u8) -> Entry {
        self.truth(at, level).1
    }

    /// Does something whose sections may be as long as they are (L3). What has none
    /// that are bounded: making an instance for many CPUs, and dropping one.
    pub fn unbounded<T>(&self, act: impl FnOnce() -> T) -> T {
        let was = core::mem::replace(&mut self.state().unbounded, true);
        let result = act();
        self.state().unbounded = was;
        result
    }

    /// The most that one section has done, of each kind, on any CPU.
    pub fn longest_section(&self) -> Work {
        let s = self.state();
        s.cpus.iter().fold(Work::default(), |most, cpu| most.most(&cpu.sections.longest))
    }

    /// The section that took the most steps, on any CPU.
    pub fn busiest_section(&self) -> Work {
        let s = self.state();
        s.cpus.iter().map(|cpu| cpu.sections.busiest).max_by_key(Work::steps).unwrap_or_default()
    }

    /// The most that was done under one lock, of each kind, on any CPU.
    pub fn longest_hold(&self) -> Work {
        let s = self.state();
        s.cpus.iter().fold(Work::default(), |most, cpu| most.most(&cpu.sections.longest_hold))
    }

    /// The number of the latest event.
    pub fn now(&self) -> u64 {
        self.state().history.now()
    }

    /// The pages whose entries were written after event `since`, and now wait for
    /// grace, with the frames that they name.
    pub fn waiting_since(&self, since: u64) -> Vec<(VirtAddr, Pfn)> {
        let written: Vec<_> = self.state().history.written_since(since).collect();
        let waits = |page: VirtAddr| match self.truth(page, 1) {
            (Place { level: 1, .. }, Entry::Parked(frame)) => Some((page, frame)),
            _ => None,
        };
        written.iter().flat_map(|pages| (0..pages.pages).map(|n| pages.start.add_pages(n))).filter_map(waits).collect()
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        self.state().counters
    }

    /// A number that two runs share if the same happened in both, in the same
    /// order.
    pub fn fingerprint(&self) -> u64 {
        self.state().history.fingerprint()
    }
}

impl<F: Format> Core<F> {
    /// Does something that no CPU guesses about meanwhile: for what only looks.
    pub fn undisturbed<T>(&self, act: impl FnOnce() -> T) -> T {
        let left = self.fuse.swap(u64::MAX, ORDER);
        let result = act();
        self.fuse.store(left, ORDER);
        result
    }

    /// An interrupt comes to the running CPU, by chance, if it listens.
    pub(crate) fn maybe_interrupt(&self) {
        let (handler, kicked) = {
            let State { cpus, rng, rates, on_interrupt, .. } = &mut *self.state();
            let cpu = &cpus[self.running() as usize];
            if !cpu.listens() || cpu.interrupts >= NESTING {
                return;
            }
            let comes = cpu.power == Power::Awake && on_interrupt.is_some() && rng.one_in(rates.interrupt);
            (on_interrupt.clone().filter(|_| comes), cpu.kicked && rng.one_in(KICK_LAG))
        };
        let cpu = self.running();
        if kicked {
            self.serve_kick(cpu);
        }
        if let Some(handler) = handler {
            self.interrupt(cpu, Event::Interrupted, &handler);
        }
    }

    /// The task that runs goes on on another CPU that is awake, by chance, if it may.
    pub(crate) fn maybe_migrate(&self) {
        let (now, s) = (self.running(), &mut *self.state());
        let cpu = s.cpu(now);
        let may = cpu.listens() && !cpu.in_nmi && cpu.interrupts == 0;
        if may && s.context == Context::Task && !turn::is_racing() && s.rng.one_in(s.rates.migrate) {
            let to = s.rng.below(s.cpus.len() as u64) as u32;
            if s.cpus[to as usize].power == Power::Awake && to != now {
                self.run_on(to);
            }
        }
    }

    /// Runs `on_kick` on `cpu`, if it was kicked and listens.
    pub(crate) fn serve_kick(&self, cpu: u32) {
        let handler = {
            let s = &mut *self.state();
            let state = s.cpu(cpu);
            if !state.kicked || !state.listens() {
                return;
            }
            state.kicked = false;
            s.on_kick.clone()
        };
        if let Some(handler) = handler {
            self.interrupt(cpu, Event::KickServed, &handler);
        }
    }

    /// An NMI comes to the running CPU: pinned or not, and inside whatever.
    #[cold]
    pub(crate) fn non_maskable(&self) {
        let (cpu, handler, interrupted) = {
            let s = &mut *self.state();
            let cpu = self.running();
            s.cpu(cpu).in_nmi = true;
            (cpu, s.on_nmi.clone(), s.cpu(cpu).interrupt(cpu))
        };
        if let Some(handler) = handler {
            handler(cpu);
        }
        let s = &mut *self.state();
        s.cpu(cpu).resume(cpu, interrupted);
        s.cpu(cpu).in_nmi = false;
    }

    /// Runs `handler` as an interrupt of `cpu`, whoever runs now.
    fn interrupt(&self, cpu: u32, event: Event, handler: &Hook) {
        let was = {
            let s = &mut *self.state();
            // Where CPUs race, those that wait are interrupted again and again.
            if !turn::is_racing() {
                s.history.note(cpu, event);
            }
            s.counters.interrupts += 1;
            s.cpu(cpu).interrupts += 1;
            self.run_on(cpu)
        };
        handler(cpu);
        let s = &mut *self.state();
        s.cpu(cpu).interrupts -= 1;
        self.run_on(was);
        if s.cpu(cpu).pins != 0 {
            accuse(&format!("M4: an interrupt on CPU {cpu} left it pinned"));
        }
    }
}
