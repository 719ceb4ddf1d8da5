//! Calls that wait for the device and are interrupted; requests that are reported later.

use crate::common::*;
use vmalloc_scullv::{
    Access, Completion, Error, Fault, Input, Later, Output, REPORT_NS, Request, Submitted, Transfer, User, Wait,
};

/// A caller that another one keeps waiting: it looks for a signal so often, and then one comes.
struct Waiting<'a> {
    bytes: &'a mut [u8],
    looks: usize,
    most: usize,
}

impl<'a> Waiting<'a> {
    fn new(bytes: &'a mut [u8], most: usize) -> Waiting<'a> {
        Waiting { bytes, looks: 0, most }
    }
}

impl User for Waiting<'_> {
    fn wait(&mut self) -> Wait {
        self.looks += 1;
        if self.looks > self.most { Wait::Interrupted } else { Wait::Again }
    }
    fn copy_in(&mut self, from: usize, to: &mut [u8]) -> Result<(), Fault> {
        Input(self.bytes).copy_in(from, to)
    }
    fn copy_out(&mut self, to: usize, from: &[u8]) -> Result<(), Fault> {
        Output(self.bytes).copy_out(to, from)
    }
}

/// A caller inside of the device: while it copies, it has the device's lock.
struct Inside<'d, 'v, F: FnMut(&Device<'v>)>(&'d Device<'v>, F);

impl<'v, F: FnMut(&Device<'v>)> User for Inside<'_, 'v, F> {
    fn copy_in(&mut self, _from: usize, to: &mut [u8]) -> Result<(), Fault> {
        self.1(self.0);
        to.fill(b'w');
        Ok(())
    }
    fn copy_out(&mut self, _to: usize, _from: &[u8]) -> Result<(), Fault> {
        self.1(self.0);
        Ok(())
    }
}

#[test]
fn an_interrupted_read_or_write_is_eintr_and_changes_nothing() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 4);
    let device = first(&scullv);
    write_all(device, 0, b"before");
    let mut refused = Vec::new();
    let inside = |device: &Device<'_>| {
        let mut bytes = *b"after!";
        let mut user = Waiting::new(&mut bytes, 5);
        refused.push(device.write(0, &mut user, 0, 6));
        assert_eq!(user.looks, 6, "it waited before the signal came");
        refused.push(device.read(0, &mut Waiting::new(&mut bytes, 0), 0, 6));
        assert_eq!(&bytes, b"after!", "nothing was read");
    };
    assert_eq!(device.write(PAGE as u64, &mut Inside(device, inside), 0, 1), Ok(1));
    assert_eq!(refused, [Err(Error::Interrupted); 2]);
    assert_eq!(Error::Interrupted.errno(), 4);
    assert_eq!((read(device, 0, 6), device.check()), (b"before".to_vec(), Ok(())));
}

#[test]
fn a_free_device_is_used_without_a_look_at_signals_and_readers_share_it() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 4);
    let device = first(&scullv);
    let mut bytes = *b"bytes";
    let mut user = Waiting::new(&mut bytes, 0);
    assert_eq!((device.write(0, &mut user, 0, 5), user.looks), (Ok(5), 0));
    let mut shared = None;
    let inside = |device: &Device<'_>| shared = Some(device.read(0, &mut Waiting::new(&mut [0; 5], 0), 0, 5));
    assert_eq!(device.read(0, &mut Inside(device, inside), 0, 5), Ok(5));
    assert_eq!(shared, Some(Ok(5)));
}

/// Reports what it keeps, in order, when it is time.
#[derive(Default)]
struct Work {
    room: usize,
    kept: Vec<(u64, Completion)>,
}

impl Later for Work {
    fn keep(&mut self, completion: Completion, after_ns: u64) -> bool {
        let fits = self.kept.len() < self.room;
        if fits {
            self.kept.push((after_ns, completion));
        }
        fits
    }
}

fn request(token: u64, transfer: Transfer, position: u64, count: usize) -> Request {
    Request { token, transfer, position, address: 0, count }
}

#[test]
fn an_asynchronous_request_is_done_at_once_and_reported_a_little_later() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 4);
    let file = scullv.open(0, Access::ReadWrite).unwrap();
    let mut work = Work { room: 3, ..Work::default() };
    let write = request(7, Transfer::Write, 100, 5);
    assert_eq!(file.submit(&write, &mut Input(b"later"), &mut work), Submitted::Queued);
    assert_eq!(read(first(&scullv), 100, 5), b"later", "it is done before it is reported");
    let mut bytes = [0; 5];
    let submitted = file.submit(&request(8, Transfer::Read, 100, 5), &mut Output(&mut bytes), &mut work);
    assert_eq!((submitted, &bytes), (Submitted::Queued, b"later"));
    let fault = request(9, Transfer::Read, 100, 5);
    assert_eq!(file.submit(&fault, &mut Input(b""), &mut work), Submitted::Queued, "an error is reported too");
    let reported = [(7, Ok(5)), (8, Ok(5)), (9, Err(Error::Fault))];
    assert_eq!(work.kept, reported.map(|(token, result)| (REPORT_NS, Completion { token, result })));
}

#[test]
fn a_request_that_nobody_can_keep_is_complete_when_it_is_made() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 4);
    let file = scullv.open(0, Access::WriteOnly).unwrap();
    let mut work = Work::default();
    let write = request(1, Transfer::Write, 0, 3);
    assert_eq!(file.submit(&write, &mut Input(b"now"), &mut work), Submitted::Done(Ok(3)));
    let read = request(2, Transfer::Read, 0, 3);
    let refused = file.submit(&read, &mut Output(&mut [0; 3]), &mut work);
    assert_eq!(refused, Submitted::Done(Err(Error::NotOpenForThis)));
    assert_eq!((work.kept, first(&scullv).status().size), (vec![], 3));
}

#[test]
fn a_request_leaves_the_files_position_where_it_is() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 4);
    let mut file = scullv.open(0, Access::ReadWrite).unwrap();
    let mut work = Work { room: 1, ..Work::default() };
    file.submit(&request(1, Transfer::Write, 50, 3), &mut Input(b"abc"), &mut work);
    assert_eq!(file.seek(0, 1), Ok(0));
}
