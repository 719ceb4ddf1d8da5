//! `vmalloc scullv`: the memory device, mounted for everybody to use.
//!
//! ```text
//!   place    where it is mounted          daemon    behind the back of the shell, and signals
//!   mount    the file system              served    the devices, and what was done with them
//!   transfer whole reads and writes       argument  what an ioctl was given
//!   selftest all of it, step by step      client    the devices from the other side
//!   times    of a file
//! ```
//!
//! The devices' memory is an instance of the library in this process. It lives
//! as long as the mount does; when that ends, everything is given back and
//! counted.

mod argument;
mod client;
mod daemon;
mod mount;
pub mod place;
mod selftest;
mod served;
mod times;
mod transfer;

use crate::options;
use anyhow::{Context, Result, ensure};
use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use served::Served;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use vmalloc::Vmalloc;
use vmalloc::units::PAGE_SIZE;
use vmalloc_hosted::Hosted;
use vmalloc_scullv::{MAX_ORDER, Parameters};

/// Least threads that serve: one that reads must not wait for one that writes.
const THREADS: usize = 4;

/// A mount to be made.
pub struct Mounting {
    options: options::scullv::Scullv,
    place: PathBuf,
    served: Arc<Served>,
    vm: &'static Vmalloc<Hosted>,
}

/// What to do.
pub enum Job {
    /// Mount and serve, in this process.
    Serve(Box<Mounting>),
    /// Let another process do that.
    Leave(daemon::Daemon),
    /// Try everything out.
    Test,
}

/// Checks all that is given, and gets the memory.
pub fn prepare(options: options::scullv::Scullv) -> Result<Job> {
    let Some(place) = &options.mountpoint else { return Ok(Job::Test) };
    if let Some(obstacle) = place::obstacle() {
        anyhow::bail!("nothing can be mounted here: {obstacle}");
    }
    if !options.foreground && !options.daemon {
        place::prepare(place)?;
        return Ok(Job::Leave(daemon::Daemon::new()?));
    }
    let place = place::prepare(place)?;
    let (vm, served) = devices(&options)?;
    Ok(Job::Serve(Box::new(Mounting { options, place, served: Arc::new(served), vm })))
}

fn devices(options: &options::scullv::Scullv) -> Result<(&'static Vmalloc<Hosted>, Served)> {
    let memory = usize::try_from(options.memory).context("so much memory cannot be addressed")?;
    check_sizes(options)?;
    let vm = vmalloc_hosted::builder().memory(memory).build().context("the memory cannot be had")?;
    // It has to outlive threads that the FUSE library owns; the process ends with it.
    let vm: &'static Vmalloc<Hosted> = Box::leak(Box::new(vm));
    let budget = options.budget.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let with = Parameters { devices: options.devices, order: options.order, qset: options.qset, budget };
    Ok((vm, Served::new(vm, with).context("no devices")?))
}

/// Whether something can be written at all, and a device can hold what it may.
fn check_sizes(options: &options::scullv::Scullv) -> Result<()> {
    let options::scullv::Scullv { memory, order, budget, .. } = *options;
    let quantum = (PAGE_SIZE as u64).checked_shl(order).unwrap_or(u64::MAX);
    let room = budget.unwrap_or(memory).min(memory);
    ensure!(
        order > MAX_ORDER || quantum < room,
        "--order {order}: a quantum has {quantum} bytes, which do not fit into {room} bytes beside what finds them"
    );
    let budget = budget.unwrap_or(0);
    ensure!(budget <= memory, "--budget {budget}: more than the {memory} bytes of --memory for all devices");
    Ok(())
}

impl Job {
    /// Does it; the exit code.
    pub fn run(self) -> Result<u8> {
        match self {
            Job::Serve(mounting) => mounting.serve().map(|()| 0),
            Job::Leave(daemon) => daemon.start(),
            Job::Test => selftest::run(),
        }
    }
}

impl Mounting {
    fn serve(self) -> Result<()> {
        let how = (self.options.keep, self.options.allow_other);
        let mut session = session(&self.served, &self.place, how)
            .with_context(|| format!("{}: cannot be mounted", self.place.display()))?;
        daemon::at_signals(&self.served, session.unmount_callable(), self.place.clone())?;
        self.announce()?;
        let ended = session.run();
        ended.context("the mount ended")?;
        self.give_back()
    }

    /// Says that the devices can be used now.
    fn announce(&self) -> Result<()> {
        let last = self.served.devices().len() - 1;
        println!("scullv0..{last} are in {}", self.place.display());
        if self.options.daemon { daemon::detach(self.options.log.as_deref()) } else { Ok(()) }
    }

    /// Empties the devices; nothing may be left of them.
    fn give_back(self) -> Result<()> {
        let Mounting { served, vm, place, .. } = self;
        // The thread that waits for signals has a share; it asks for nothing but figures.
        served.devices().iter().for_each(|device| {
            let emptied = device.trim(device.status().geometry);
            debug_assert!(emptied.is_ok(), "nothing is mapped here");
        });
        let left = vm.areas().count();
        ensure!(left == 0, "{left} areas are left");
        eprintln!("vmalloc: {}: unmounted; every area was given back", place.display());
        Ok(())
    }
}

/// Mounts one device on `place`, to be used by this process itself.
pub fn mounted(place: &Path, memory: usize) -> Result<BackgroundSession> {
    let vm = vmalloc_hosted::builder().memory(memory).build().context("the memory cannot be had")?;
    let vm: &'static Vmalloc<Hosted> = Box::leak(Box::new(vm));
    let served = Served::new(vm, Parameters { devices: 1, ..Parameters::default() })?;
    Ok(session(&Arc::new(served), place, (false, false))?.spawn()?)
}

fn session(served: &Arc<Served>, place: &Path, (keeps, for_all): (bool, bool)) -> io::Result<Session<mount::Mount>> {
    let mount = mount::Mount::new(served.clone(), keeps);
    let kernel = mount.kernel();
    let mut config = config();
    if for_all {
        config.acl = SessionACL::All;
    }
    let session = Session::new(mount, place, &config)?;
    // Nothing is served yet, so nobody has looked for it.
    let _ = kernel.set(session.notifier());
    Ok(session)
}

/// How all of our mounts are made.
pub fn config() -> Config {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName(place::SOURCE.into()), MountOption::DefaultPermissions];
    config.n_threads = Some(thread::available_parallelism().map_or(THREADS, |n| n.get().max(THREADS)));
    config.clone_fd = true;
    config
}
