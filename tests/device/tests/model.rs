// SPDX-License-Identifier: GPL-2.0

//! The device says what it should, and notices what it must.

#![allow(missing_docs)] // Not an interface.

use core::ops::Range;
use virtio_mem_core::wire::offset;
use virtio_mem_core::wire::Request;
use virtio_mem_core::wire::Response;
use vmem_test_device::command::Command;
use vmem_test_device::device::Device;
use vmem_test_device::device::Setup;
use vmem_test_device::personality::Personality;
use vmem_test_device::report;
use vmem_test_device::Memory;
use vmem_test_device::Store;

const MIB: u64 = 1 << 20;
const ADDR: u64 = 1 << 32;

struct Heap;

impl Store for Heap {
    type Of<T: Copy> = Vec<T>;

    fn make<T: Copy>(value: T, len: usize) -> Option<Vec<T>> {
        Some(vec![value; len])
    }
}

/// What is not unplugged-clean, and what is in use, as addresses.
#[derive(Default)]
struct Ram {
    written: Vec<u64>,
    used: Vec<u64>,
}

impl Memory for Ram {
    fn poison(&mut self, range: Range<u64>) {
        self.written.retain(|addr| !range.contains(addr));
    }

    fn damage(&mut self, range: Range<u64>) -> Option<u64> {
        self.written.iter().copied().find(|a| range.contains(a))
    }

    fn in_use(&mut self, range: Range<u64>) -> Option<u64> {
        self.used.iter().copied().find(|addr| range.contains(addr))
    }
}

struct Bench {
    device: Device<Heap>,
    ram: Ram,
}

impl Bench {
    fn new(personality: Personality) -> Self {
        let setup = Setup {
            personality,
            addr: ADDR,
            region_size: 1024 * MIB,
            block_size: personality.block_size(),
            requested_size: 0,
            node: 0,
            features: personality.features(),
        };
        let mut ram = Ram::default();
        let mut device = Device::new(setup).unwrap();
        device.appear(&mut ram);
        Self { device, ram }
    }

    /// The host wants `size`, and the driver reads it.
    fn request(&mut self, size: u64) {
        self.device.request(size);
        self.read(offset::USABLE_REGION_SIZE);
        self.read(offset::REQUESTED_SIZE);
    }

    fn read(&mut self, at: u32) -> u64 {
        let mut bytes = [0; 8];
        self.device.read_config(at, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn command(&mut self, line: &str) {
        match Command::parse(line, self.device.setup()).expect(line) {
            Command::Fault(fault) => assert!(self.device.faults.add(fault)),
            Command::Lie(field, lie) => self.device.lies.set(field, lie),
            Command::Generations(count) => self.device.lies.generations = count,
            other => panic!("{other:?}"),
        }
    }

    /// What the driver makes of the answer; `None` without one.
    fn send(&mut self, request: Request) -> Option<Response> {
        let bytes = request.encode();
        let answer = self.device.handle(&bytes, true, 0, &mut self.ram)?;
        self.device.told(&answer);
        Some(Response::decode(request, &answer.bytes, answer.len))
    }

    fn plug(&mut self, mib: u64, blocks: u16) -> Option<Response> {
        let addr = ADDR + mib * MIB;
        self.send(Request::Plug { addr, blocks })
    }

    fn unplug(&mut self, mib: u64, blocks: u16) -> Option<Response> {
        let addr = ADDR + mib * MIB;
        self.send(Request::Unplug { addr, blocks })
    }

    fn violations(&self) -> String {
        let mut text = String::new();
        report::violations(&self.device, &mut text).unwrap();
        text
    }

    fn expect_one(&self, words: &str) {
        let violations = self.violations();
        assert_eq!(violations.lines().count(), 1, "{violations}");
        assert!(violations.contains(words), "{violations}");
    }
}

#[test]
fn plugs_and_unplugs_without_complaint() {
    for personality in Personality::ALL {
        let mut bench = Bench::new(personality);
        let block = personality.block_size() / MIB;
        bench.request(64 * MIB);
        assert_eq!(bench.plug(0, 4), Some(Response::Ack));
        assert_eq!(bench.device.plugged(), 4 * block * MIB);
        assert_eq!(bench.unplug(block, 2), Some(Response::Ack));
        assert_eq!(bench.plug(block, 1), Some(Response::Ack));
        assert_eq!(bench.send(Request::UnplugAll), Some(Response::Ack));
        assert_eq!(bench.device.plugged(), 0);
        assert_eq!(bench.violations(), "");
    }
}

#[test]
fn refuses_in_its_own_manner() {
    let mut bench = Bench::new(Personality::Qemu);
    bench.request(4 * MIB);
    assert_eq!(bench.plug(0, 3), Some(Response::Nack));
    bench.expect_one("exceeds the request");
    bench.device.migrating = true;
    assert_eq!(bench.plug(0, 1), Some(Response::Busy));

    let mut bench = Bench::new(Personality::Firecracker);
    bench.request(4 * MIB);
    assert_eq!(bench.plug(0, 3), Some(Response::Error));
    assert_eq!(bench.read(offset::USABLE_REGION_SIZE), 128 * MIB);
    assert_eq!(bench.send(Request::UnplugAll), Some(Response::Ack));
    assert_eq!(bench.read(offset::USABLE_REGION_SIZE), 0);
    bench.request(4 * MIB);
    assert_eq!(bench.read(offset::USABLE_REGION_SIZE), 128 * MIB);
    assert!(bench
        .device
        .handle(&[0xff; 24], true, 0, &mut bench.ram)
        .is_none());
}

#[test]
fn notices_what_is_against_the_rules() {
    let plugged = || {
        let mut bench = Bench::new(Personality::Qemu);
        bench.request(64 * MIB);
        assert_eq!(bench.plug(0, 4), Some(Response::Ack));
        bench
    };
    let mut bench = plugged();
    assert_eq!(bench.plug(6, 2), Some(Response::Error));
    bench.expect_one("known to be plugged");
    let mut bench = plugged();
    assert_eq!(bench.unplug(6, 2), Some(Response::Error));
    bench.expect_one("known to be unplugged");
    let mut bench = plugged();
    bench.ram.used.push(ADDR + 2 * MIB + 4096);
    bench.unplug(2, 2);
    bench.expect_one("is in use");
    let mut bench = plugged();
    bench.ram.used.push(ADDR + 2 * MIB);
    bench.send(Request::UnplugAll);
    bench.expect_one("is in use");
    let mut bench = plugged();
    bench.ram.written.push(ADDR + 8 * MIB);
    bench.plug(8, 1);
    bench.expect_one("was written at 0x100800000");
    let mut bench = plugged();
    bench.ram.written = vec![ADDR + 2 * MIB, ADDR + 512 * MIB];
    bench.device.check(&mut bench.ram);
    bench.device.check(&mut bench.ram);
    bench.expect_one("was written at 0x120000000");
    let mut bench = plugged();
    bench.plug(1023, 1);
    bench.expect_one("begins within a block");
    let mut bench = plugged();
    bench.plug(1022, 2);
    bench.expect_one("leaves the region");
    let mut bench = plugged();
    bench.plug(512, 1);
    bench.expect_one("leaves the usable");
    let mut bench = plugged();
    bench.device.config_written(8);
    bench.expect_one("config space written at 8");
    let mut bench = plugged();
    let answer = bench.device.handle(&[0xff; 24], true, 0, &mut bench.ram);
    assert!(answer.is_none());
    bench.expect_one("request of kind 65535");
}

#[test]
fn does_not_blame_the_driver_for_lies() {
    let mut bench = Bench::new(Personality::CloudHypervisor);
    bench.request(64 * MIB);
    bench.command("fault kind=plug code=error act times=1");
    assert_eq!(bench.plug(0, 4), Some(Response::Error));
    assert_eq!(bench.device.plugged(), 8 * MIB);
    assert_eq!(bench.read(offset::PLUGGED_SIZE), 0);
    // Whichever way it finds out.
    assert_eq!(bench.plug(0, 2), Some(Response::Error));
    assert_eq!(bench.unplug(4, 2), Some(Response::Ack));
    bench.command("fault kind=unplug never times=1");
    assert_eq!(bench.unplug(0, 1), None);
    assert_eq!(bench.unplug(0, 1), Some(Response::Error));
    // Told of memory that is not there, it may use it.
    bench.command("fault kind=state state=0 times=1");
    let (addr, blocks) = (ADDR + 32 * MIB, 2);
    bench.send(Request::State { addr, blocks });
    bench.ram.written.push(addr);
    bench.device.check(&mut bench.ram);
    assert_eq!(bench.violations(), "");
}

#[test]
fn faults_strike_when_told_to() {
    let mut bench = Bench::new(Personality::Qemu);
    bench.request(512 * MIB);
    bench.command("fault kind=plug skip=1 times=2 code=busy");
    let answers: Vec<_> = (0..5).map(|n| bench.plug(n * 2, 1)).collect();
    let (ack, busy) = (Some(Response::Ack), Some(Response::Busy));
    assert_eq!(answers, [ack, busy, busy, ack, ack]);
    bench.device.faults.clear();
    bench.command("fault percent=50 len=1");
    let garbled = (0..100)
        .filter(|_| {
            bench.send(Request::State {
                addr: ADDR,
                blocks: 1,
            }) == Some(Response::Garbled)
        })
        .count();
    assert!((20..80).contains(&garbled), "{garbled}");
    assert_eq!(bench.violations(), "");
}

#[test]
fn config_fields_lie() {
    let mut bench = Bench::new(Personality::Qemu);
    bench.command("lie block_size 0x8000000000000000");
    assert_eq!(bench.read(offset::BLOCK_SIZE), 1 << 63);
    bench.command("lie block_size truth");
    assert_eq!(bench.read(offset::BLOCK_SIZE), 2 * MIB);
    bench.command("flap requested_size 2M 1G");
    let read: Vec<_> = (0..3).map(|_| bench.read(offset::REQUESTED_SIZE)).collect();
    assert_eq!(read, [2 * MIB, 1024 * MIB, 2 * MIB]);
    bench.command("generations 2");
    let generation = bench.device.lies.generation;
    let read: Vec<_> = (0..4)
        .map(|_| bench.device.lies.read_generation() - generation)
        .collect();
    assert_eq!(read, [1, 2, 2, 2]);
    assert_eq!(bench.violations(), "");
}

#[test]
fn commands_are_read_or_refused() {
    let setup = *Bench::new(Personality::Qemu).device.setup();
    for line in [
        "setup personality=dragonball region_size=1G node=1",
        "request 0x1000000 quiet",
        "destroy surprise",
        "fault kind=unplug-all skip=3 percent=10 times=4 code=nack act delay=50 twice",
    ] {
        assert!(Command::parse(line, &setup).is_some(), "{line}");
    }
    for line in [
        "",
        "setup block_size=3M",
        "setup personality=xen",
        "request",
        "request 1M now",
        "request -1",
        "lie colour 1",
        "fault kind=plug colour=red",
        "migrating",
        "create it",
    ] {
        assert!(Command::parse(line, &setup).is_none(), "{line}");
    }
}
