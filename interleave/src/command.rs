//! The command: the stage, one schedule again, a soak.

use crate::chooser::Kind;
use crate::engine;
use crate::look::{self, Looked};
use crate::scenarios::{self, Scenario};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use vmalloc::internals::interleave::Rule;

/// Schedules of each scenario under each scheduler, unless told.
const SCHEDULES: u64 = 800;
/// Switch steps that so many schedules have to take: fewer would prove less.
const ENOUGH: u64 = 500_000_000;
/// Schedules after which a broken rule counts as not noticed.
const PATIENCE: u64 = 40_000;
/// Signals by which a process ends that has followed a wild pointer, or aborts.
const SIGILL: i32 = 4;
const SIGTRAP: i32 = 5;
const SIGABRT: i32 = 6;
const SIGBUS: i32 = 7;
const SIGSEGV: i32 = 11;
/// Schedules of one job.
const CHUNK: u64 = 500;

pub fn run(words: Vec<String>) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let right = match words[..] {
        [] => stage(),
        ["control", scenario, rule, seed] => control_here(scenario, rule, seed),
        ["replay", scenario, kind, seed] => replay(scenario, kind, seed, None),
        ["replay", scenario, kind, seed, rule] => replay(scenario, kind, seed, Some(rule)),
        ["look", schedules] => look_at(schedules, ""),
        ["look", schedules, part] => look_at(schedules, part),
        ["soak", seconds] => soak(seconds, "1000000000"),
        ["soak", seconds, seed] => soak(seconds, seed),
        _ => Err("interleave; interleave replay SCENARIO SCHEDULER SEED [RULE]; interleave look SCHEDULES [PART OF A NAME]; \
                  interleave soak SECONDS [SEED]"
            .into()),
    };
    match right {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(usage) => {
            eprintln!("{usage}");
            ExitCode::from(2)
        }
    }
}

/// A number from the environment.
fn set_or(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.replace('_', "").parse().ok()).unwrap_or(default)
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// First that each broken rule is noticed, then that nothing is noticed otherwise.
fn stage() -> Result<bool, String> {
    let began = Instant::now();
    let seed = set_or("INTERLEAVE_SEED", 1);
    let controls: Vec<_> =
        scenarios::all().flat_map(|scenario| scenario.notices.iter().map(move |&broken| (scenario, broken))).collect();
    println!(
        "{:<66} {:<21} {:<7} {:>9} {:>11}  what was noticed",
        "scenario", "rule broken", "by", "schedules", "seed"
    );
    let blind = Mutex::new(0);
    each(&controls, |&(scenario, broken)| {
        let (noticed, line) = control(scenario, broken, seed);
        println!("{line}");
        *blind.lock().expect("no panic under it") += !noticed as usize;
        Looked::default()
    });
    let schedules = set_or("INTERLEAVE_SCHEDULES", SCHEDULES);
    let sum = all_scenarios("", seed, schedules)?;
    let blind = *blind.lock().expect("no panic under it");
    println!(
        "\n{} schedules, {} switch steps, {:.1} s; {} rules broken, {blind} not noticed",
        sum.schedules,
        sum.steps,
        began.elapsed().as_secs_f64(),
        controls.len(),
    );
    let enough = schedules < SCHEDULES || sum.steps >= ENOUGH;
    if !enough {
        println!("FAILED: {} switch steps are too few, {ENOUGH} are wanted", sum.steps);
    }
    Ok(sum.found.is_none() && blind == 0 && enough)
}

/// So many schedules of each scenario whose name has `part`, under each scheduler.
fn all_scenarios(part: &str, seed: u64, schedules: u64) -> Result<Looked, String> {
    if schedules == 0 {
        return Err("no schedules would look at nothing".into());
    }
    let all: Vec<_> = scenarios::all().filter(|scenario| scenario.name.contains(part)).collect();
    println!("\n{:<66} {:>9} {:>13} {:>8}", "scenario, under all schedulers", "schedules", "steps", "seconds");
    Ok(each(&all, |scenario| {
        let looked = under_all(scenario, seed, schedules);
        println!("{}", told(scenario, &looked));
        looked
    }))
}

/// What is right, without what is broken on purpose: the same schedules each time.
fn look_at(schedules: &str, part: &str) -> Result<bool, String> {
    Ok(all_scenarios(part, set_or("INTERLEAVE_SEED", 1), number(schedules)?)?.found.is_none())
}

/// Does all jobs, on all processors, and adds up what they looked at.
fn each<T: Sync>(jobs: &[T], does: impl Fn(&T) -> Looked + Sync) -> Looked {
    let (next, sum) = (AtomicUsize::new(0), Mutex::new(Looked::default()));
    let work = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Relaxed)) {
            let looked = does(job);
            sum.lock().expect("no panic under it").add(looked);
        }
    };
    std::thread::scope(|scope| (0..threads()).for_each(|_| _ = scope.spawn(work)));
    sum.into_inner().expect("no panic under it")
}

/// Breaks a rule in a process of its own, which a wild pointer may end, and looks
/// whether the scenario notices.
fn control(scenario: &Scenario, broken: Rule, seed: u64) -> (bool, String) {
    let name = format!("{broken:?}");
    let itself = std::env::current_exe().expect("this program has a file");
    let ended = Command::new(itself).args(["control", scenario.name, &name, &seed.to_string()]).output();
    let ended = ended.expect("a process");
    let told = String::from_utf8_lossy(&ended.stdout);
    let last = told.lines().last().unwrap_or_default();
    let (noticed, what) = match ended.status.signal() {
        Some(signal @ (SIGILL | SIGTRAP | SIGABRT | SIGBUS | SIGSEGV)) => (
            true,
            format!("{last}  the process died of signal {signal}: a wild pointer, or a panic that waits for ever"),
        ),
        Some(signal) => (false, format!("{last}  NOT NOTICED: somebody has ended the process by signal {signal}")),
        None => (ended.status.success(), last.into()),
    };
    (noticed, format!("{:<66} {name:<21} {what}", scenario.name))
}

/// What the process does: one scheduler after the other, more and more schedules of
/// each. Each schedule is told before it runs; the last line tells how it ended. The
/// schedule that is noticed runs again, and has to tell the same story.
fn control_here(scenario: &str, rule: &str, seed: &str) -> Result<bool, String> {
    let (scenario, broken, seed) = (scenario_of(scenario)?, rule_of(rule)?, number(seed)?);
    let lengths = look::lengths(scenario);
    let (mut schedules, mut done, mut more) = (0, 0, 64);
    while schedules < PATIENCE {
        for kind in Kind::ALL {
            for seed in seed + done..seed + done + more {
                schedules += 1;
                println!("{:<7} {schedules:>9} {seed:>11}", kind.name());
                if let Err(panic) = look::once(scenario, kind, seed, &lengths, Some(broken)) {
                    let (story, events) = (look::story(&*panic), engine::last_story());
                    let again = look::once(scenario, kind, seed, &lengths, Some(broken)).err();
                    if again.map(|panic| (look::story(&*panic), engine::last_story())) != Some((story.clone(), events))
                    {
                        println!("NOT THE SAME STORY AGAIN: {} with seed {seed}", kind.name());
                        return Ok(false);
                    }
                    let first = story.lines().next().unwrap_or_default();
                    println!("{:<7} {schedules:>9} {seed:>11}  {first}", kind.name());
                    return Ok(true);
                }
            }
        }
        (done, more) = (done + more, more * 2);
    }
    println!("NOT NOTICED in {schedules} schedules");
    Ok(false)
}

fn under_all(scenario: &Scenario, seed: u64, schedules: u64) -> Looked {
    let lengths = look::lengths(scenario);
    let mut looked = Looked::default();
    for kind in Kind::ALL {
        for from in (0..schedules).step_by(CHUNK as usize) {
            if looked.found.is_none() {
                let seeds = seed + from..seed + schedules.min(from + CHUNK);
                looked.add(look::look(scenario, kind, seeds, &lengths, None));
            }
        }
    }
    looked
}

fn told(scenario: &Scenario, looked: &Looked) -> String {
    let seconds = looked.time.as_secs_f64();
    let line = format!("{:<66} {:>9} {:>13} {seconds:>8.1}", scenario.name, looked.schedules, looked.steps);
    match &looked.found {
        Some(found) => format!(
            "{line}\nFAILED: {}\nagain: interleave replay {:?} {} {}",
            found.story,
            scenario.name,
            found.kind.name(),
            found.seed
        ),
        None => line,
    }
}

fn scenario_of(name: &str) -> Result<&'static Scenario, String> {
    scenarios::named(name).ok_or_else(|| {
        let names: Vec<_> = scenarios::all().map(|scenario| scenario.name).collect();
        format!("no scenario {name:?}; there are:\n  {}", names.join("\n  "))
    })
}

fn rule_of(name: &str) -> Result<Rule, String> {
    let mut known = scenarios::all().flat_map(|scenario| scenario.notices).copied();
    known.find(|rule| format!("{rule:?}") == name).ok_or_else(|| format!("no scenario notices a rule {name}"))
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

/// One schedule again, and what all CPUs did towards its end.
fn replay(scenario: &str, kind: &str, seed: &str, rule: Option<&str>) -> Result<bool, String> {
    let (scenario, seed) = (scenario_of(scenario)?, number(seed)?);
    let kind =
        Kind::named(kind).ok_or_else(|| format!("no scheduler {kind}; there are: once pct3 pct5 sticky random"))?;
    let broken = rule.map(rule_of).transpose()?;
    let lengths = look::lengths(scenario);
    match look::once(scenario, kind, seed, &lengths, broken) {
        Ok(()) => {
            println!("right: {} under {} with seed {seed}", scenario.name, kind.name());
            Ok(true)
        }
        Err(panic) => {
            println!("{}\n\nwhat all CPUs did, by event:\n{}", look::story(&*panic), engine::last_story());
            Ok(false)
        }
    }
}

/// The mixes for some time, and what they find.
fn soak(seconds: &str, seed: &str) -> Result<bool, String> {
    let (seconds, seed) = (number(seconds)?, number(seed)?);
    let (began, end) = (Instant::now(), Duration::from_secs(seconds));
    let all: Vec<_> = scenarios::all().map(|scenario| (scenario, look::lengths(scenario))).collect();
    let next = AtomicUsize::new(0);
    let workers: Vec<usize> = (0..threads()).collect();
    let sum = each(&workers, |_| {
        let mut sum = Looked::default();
        while began.elapsed() < end && sum.found.is_none() {
            let n = next.fetch_add(1, Relaxed);
            let (scenario, lengths) = &all[n % all.len()];
            let kind = Kind::ALL[n / all.len() % Kind::ALL.len()];
            let from = seed + (n / all.len()) as u64 * CHUNK;
            let looked = look::look(scenario, kind, from..from + CHUNK, lengths, None);
            if looked.found.is_some() {
                println!("{}", told(scenario, &looked));
            }
            sum.add(looked);
        }
        sum
    });
    println!("{} schedules, {} switch steps, {:.0} s", sum.schedules, sum.steps, began.elapsed().as_secs_f64());
    Ok(sum.found.is_none())
}
