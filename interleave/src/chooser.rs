//! Who goes on: schedulers, each a few lines, all of whose choices follow from a seed.
//! No single one finds everything.
//!
//! | Name | Another CPU goes on |
//! |---|---|
//! | random | at each step, by chance |
//! | sticky | once in 50 steps, by chance |
//! | pct3, pct5 | where priorities say so; they change at 2 or 4 steps, by chance (Burckhardt et al., 2010) |
//! | once | after n steps of one CPU, in each order of CPUs that there is: as the seed counts up, all come, far apart at first |

use crate::random::Random;

/// A CPU, and after how many steps the chooser is asked again.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    pub cpu: usize,
    pub steps: u64,
}

/// A kind of scheduler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Random,
    Sticky,
    Pct3,
    Pct5,
    Once,
    /// One CPU after the other, never switched but where one waits: to measure.
    Straight,
}

impl Kind {
    /// Those that look for something.
    pub const ALL: [Kind; 5] = [Kind::Once, Kind::Pct3, Kind::Pct5, Kind::Sticky, Kind::Random];

    pub const fn name(self) -> &'static str {
        match self {
            Kind::Random => "random",
            Kind::Sticky => "sticky",
            Kind::Pct3 => "pct3",
            Kind::Pct5 => "pct5",
            Kind::Once => "once",
            Kind::Straight => "straight",
        }
    }

    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A scheduler at work on one race.
pub struct Chooser {
    cpus: usize,
    random: Random,
    how: How,
}

enum How {
    /// Another CPU once in so many steps.
    Chance(u64),
    Pct {
        /// By CPU: the highest goes on.
        priorities: Vec<i64>,
        /// Steps at which whoever runs becomes the lowest, the next one last.
        changes: Vec<u64>,
        lowest: i64,
    },
    Once {
        /// CPUs in the order in which they run, each as far as it can.
        order: Vec<usize>,
        /// Which of them is stopped after so many steps.
        stopped: usize,
        after: u64,
    },
}

impl Chooser {
    /// The scheduler of `kind` for a race of CPUs that take about so many steps each.
    pub fn new(kind: Kind, seed: u64, lengths: &[u64]) -> Chooser {
        let (cpus, length) = (lengths.len(), lengths.iter().sum());
        let mut random = Random::new(seed);
        let how = match kind {
            Kind::Random => How::Chance(1),
            Kind::Sticky => How::Chance(50),
            Kind::Pct3 => pct(&mut random, cpus, 2, length),
            Kind::Pct5 => pct(&mut random, cpus, 4, length),
            Kind::Once => {
                let (order, left) = permuted(cpus, seed);
                let (stopped, left) = (left % (cpus as u64 - 1), left / (cpus as u64 - 1));
                let after = spread(left, lengths[order[stopped as usize]] + 1);
                How::Once { order, stopped: stopped as usize, after }
            }
            Kind::Straight => How::Once { order: (0..cpus).collect(), stopped: cpus, after: 0 },
        };
        Chooser { cpus, random, how }
    }

    /// Who begins.
    pub fn first(&mut self) -> Turn {
        match &mut self.how {
            How::Chance(_) => {
                let cpu = self.random.below(self.cpus as u64) as usize;
                self.stay(cpu)
            }
            How::Pct { .. } => self.highest(0),
            How::Once { .. } => self.at_place(0),
        }
    }

    /// Who goes on, `steps` into the race; `waits` where `current` cannot.
    pub fn next(&mut self, current: usize, steps: u64, waits: bool) -> Turn {
        match &mut self.how {
            How::Chance(1) if !waits => {
                let cpu = self.random.below(self.cpus as u64) as usize;
                self.stay(cpu)
            }
            How::Chance(_) => {
                let other = 1 + self.random.below(self.cpus as u64 - 1) as usize;
                self.stay((current + other) % self.cpus)
            }
            How::Pct { priorities, changes, lowest } => {
                if waits || changes.last().is_some_and(|&at| at <= steps) {
                    *lowest -= 1;
                    priorities[current] = *lowest;
                }
                while changes.last().is_some_and(|&at| at <= steps) {
                    changes.pop();
                }
                self.highest(steps)
            }
            How::Once { order, .. } => {
                let place = order.iter().position(|&cpu| cpu == current).unwrap_or(0);
                let next = self.at_place((place + 1) % self.cpus);
                self.stop_no_more(place);
                next
            }
        }
    }

    /// The CPU at a place of the order goes on.
    fn at_place(&self, place: usize) -> Turn {
        let How::Once { order, stopped, after } = &self.how else { return Turn { cpu: 0, steps: 0 } };
        Turn { cpu: order[place], steps: if *stopped == place { *after } else { u64::MAX } }
    }

    /// Whoever was to be stopped has been.
    fn stop_no_more(&mut self, place: usize) {
        if let How::Once { stopped, .. } = &mut self.how
            && *stopped == place
        {
            *stopped = usize::MAX;
        }
    }

    /// `cpu` goes on, for as long as chance says.
    fn stay(&mut self, cpu: usize) -> Turn {
        let How::Chance(mean) = self.how else { return Turn { cpu, steps: 0 } };
        let steps = if mean == 1 { 0 } else { self.random.below(2 * mean) };
        Turn { cpu, steps }
    }

    /// The CPU of the highest priority, until priorities change.
    fn highest(&self, steps: u64) -> Turn {
        let How::Pct { priorities, changes, .. } = &self.how else { return Turn { cpu: 0, steps: 0 } };
        let cpu = (0..self.cpus).max_by_key(|&cpu| priorities[cpu]).unwrap_or(0);
        Turn { cpu, steps: changes.last().map_or(u64::MAX, |at| at - steps) }
    }
}

/// The `n`-th of the numbers below `count`: each comes once, and few that follow each
/// other lie all over.
fn spread(n: u64, count: u64) -> u64 {
    let coprime = |stride: &u64| {
        let (mut a, mut b) = (*stride, count);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a == 1
    };
    let golden = (count as f64 * 0.618) as u64;
    let stride = (golden.max(1)..).find(coprime).unwrap_or(1);
    (n % count) * stride % count
}

/// The order of CPUs that `number` counts to, and what is left of it.
fn permuted(cpus: usize, mut number: u64) -> (Vec<usize>, u64) {
    let mut left: Vec<usize> = (0..cpus).collect();
    let mut order = Vec::new();
    while !left.is_empty() {
        let choices = left.len() as u64;
        order.push(left.remove((number % choices) as usize));
        number /= choices;
    }
    (order, number)
}

fn pct(random: &mut Random, cpus: usize, changes: usize, length: u64) -> How {
    let mut priorities: Vec<i64> = (1..=cpus as i64).collect();
    for n in (1..cpus).rev() {
        priorities.swap(n, random.below(n as u64 + 1) as usize);
    }
    let mut changes: Vec<u64> = (0..changes).map(|_| 1 + random.below(length.max(1))).collect();
    changes.sort_by(|a, b| b.cmp(a));
    How::Pct { priorities, changes, lowest: 0 }
}
