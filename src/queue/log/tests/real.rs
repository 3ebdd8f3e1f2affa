//! The real file system.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::pages::PAGE;
use super::super::storage;
use super::*;

/// A directory that is removed at the end of the test.
pub(super) struct Dir(pub(super) PathBuf);

impl Dir {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("strait-log-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn open_dir(path: &Path) -> (Log<DirStorage>, Recovery) {
    let storage = DirStorage::open(path).unwrap();
    let options = Options {
        segment_bytes: 64 * 1024,
        seed: fastrand::u64(..),
        ..options()
    };
    Log::open(storage, options).unwrap()
}

pub(super) fn scan(line: LineId, from: Seq) -> Scan {
    Scan {
        line,
        from,
        messages_max: 100,
        bytes_max: 1 << 20,
    }
}

// I24
#[test]
fn one_process_has_the_directory_and_only_its_user_can_read_it() {
    let dir = Dir::new("lock");
    let (mut log, _) = open_dir(&dir.0);
    log.append(&entries(LINE, 1..=3), false).unwrap();
    let refused = DirStorage::open(&dir.0).unwrap_err().to_string();
    assert!(
        refused.contains(&format!("in use by process {}", std::process::id())),
        "{refused}"
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.0), 0o700);
    for file in fs::read_dir(&dir.0).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
    drop(log);
    let (mut log, _) = open_dir(&dir.0);
    assert_eq!(log.scan(scan(LINE, 1)).unwrap().found.len(), 3);
}

// Symptom: a checkpoint could not remove an old one, or the queue could not start: "no such file". Cause: between the name of a file
// and what it is like, somebody gave the file another name. Fix: a file that is gone by then is left out.
#[test]
fn files_that_get_other_names_meanwhile_do_not_spoil_a_list() {
    let dir = Dir::new("list");
    let storage = DirStorage::open(&dir.0).unwrap();
    storage.create("stays").unwrap();
    for number in 0..FILES {
        storage.create(&format!("{number}.a")).unwrap();
    }
    let lists = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut names = ["a", "b"];
            // Until the other one has seen them change often enough.
            while lists.load(Ordering::Relaxed) < LISTS {
                for number in 0..FILES {
                    let [from, to] = names.map(|end| format!("{number}.{end}"));
                    storage.rename(&from, &to).unwrap();
                }
                names.reverse();
            }
        });
        for _ in 0..LISTS {
            let listed = storage.list();
            lists.fetch_add(1, Ordering::Relaxed);
            let listed = listed.map(|files| files.iter().any(|(name, _)| name == "stays"));
            // The other thread ends also if this one fails.
            if !listed.as_ref().is_ok_and(|stays| *stays) {
                lists.store(LISTS, Ordering::Relaxed);
            }
            assert!(listed.unwrap(), "a file that nobody touches is not there");
        }
    });
}

// Zeros go past the memory of the operating system, what is read and written elsewhere goes through it: both see the same file.
#[test]
fn zeros_are_where_they_belong_and_nowhere_else() {
    let dir = Dir::new("zeros");
    let storage = DirStorage::open(&dir.0).unwrap();
    let file = storage.create("file").unwrap();
    let (unit, long) = (PAGE, |number: usize| u64::try_from(number).unwrap());
    storage::write_full(&storage, &file, 0, &vec![7; 100 * unit]).unwrap();
    storage.zero(&file, long(unit), 70 * unit).unwrap();
    // Not all segments end at a multiple: no reason to fail.
    storage.zero(&file, long(80 * unit), 100).unwrap();
    storage::write_full(&storage, &file, long(2 * unit), &[9]).unwrap();
    let mut bytes = vec![1; 101 * unit];
    storage::read_full(&storage, &file, 0, &mut bytes).unwrap();
    let expected = |at: usize| match at {
        _ if at == 2 * unit => 9,
        _ if (unit..71 * unit).contains(&at) || (80 * unit..80 * unit + 100).contains(&at) => 0,
        _ => 7,
    };
    assert_eq!(bytes.len(), 100 * unit);
    assert_eq!(
        bytes.iter().enumerate().position(|(at, byte)| *byte != expected(at)),
        None
    );
}

// A file that grows as it is written to has nothing behind its last record, and takes no more space than its records.
#[test]
fn only_a_file_that_has_zeros_is_written_in_whole_pages() {
    let dir = Dir::new("pages");
    let (mut log, _) = open_dir(&dir.0);
    log.append(&entries(LINE, 1..=3), false).unwrap();
    let files = fs::read_dir(&dir.0).unwrap().map(|file| file.unwrap());
    let segments = files.filter(|file| file.file_name().to_str().unwrap().ends_with(".segment"));
    let lens: Vec<u64> = segments.map(|file| file.metadata().unwrap().len()).collect();
    assert!(lens.len() == 1 && (3 * 100..1_000).contains(&lens[0]), "{lens:?}");
}

// L17: batches of all lengths go into a file with zeros past the memory of the operating system, which has some of it from readers;
// what is read at any time, and after a restart, is what was written.
#[test]
fn what_goes_past_the_memory_of_the_system_is_read_as_it_was_written() {
    let dir = Dir::new("direct");
    let (mut log, _) = open_dir(&dir.0);
    let lens = [1, 40, 4_000, 17, 4_096, 300, 9_000, 3_900, 150];
    for seq in 1..=200_u64 {
        while log.upkeep().unwrap() {}
        let len = lens[usize::try_from(seq).unwrap() % lens.len()];
        log.append(&[entry(LINE, seq, len)], false).unwrap();
        let read = log.scan(scan(LINE, seq.saturating_sub(5).max(1))).unwrap();
        assert_eq!(read.found.last().map(|(seq, _)| *seq), Some(seq));
        assert_eq!(read.found.last().unwrap().1.content, entry(LINE, seq, len).head);
    }
    drop(log);
    let (mut log, recovery) = open_dir(&dir.0);
    assert_eq!((recovery.damage, recovery.torn), (Vec::new(), None));
    for seq in 1..=200 {
        let len = lens[usize::try_from(seq).unwrap() % lens.len()];
        let found = log.fetch(LINE, seq).unwrap().unwrap();
        assert_eq!(found.content, entry(LINE, seq, len).head, "{seq}");
    }
}

/// Enough that the directory is not read in one go.
const FILES: usize = 300;
const LISTS: usize = 200;

// M-G6: real ENOSPC, on a tmpfs of 1 MiB.
#[test]
fn a_full_file_system_is_survived() {
    let dir = Dir::new("full");
    fs::create_dir_all(&dir.0).unwrap();
    let mount = |args: &[&str]| Command::new(args[0]).args(&args[1..]).arg(&dir.0).status();
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "none"]).is_ok_and(|status| status.success()) {
        println!("skipped: this user cannot mount a tmpfs");
        return;
    }
    let result = std::panic::catch_unwind(|| fill(&dir.0.join("queue")));
    assert!(mount(&["umount"]).unwrap().success());
    result.unwrap();
}

fn fill(path: &Path) {
    let (mut log, _) = open_dir(path);
    while log.upkeep().unwrap() {}
    let mut seq = 0;
    let error = loop {
        match log.append(&[entry(LINE, seq + 1, 1000)], false) {
            Ok(_) => seq += 1,
            Err(error) => break error,
        }
        drop(log.upkeep());
    };
    assert!(matches!(error, AppendError::Full), "{error:?}");
    assert!(
        seq > 500 && log.space().unwrap().percent() > 85,
        "{seq} {:?}",
        log.space()
    );
    for essential in 1..=30 {
        log.append(&[entry(OTHER, essential, 1000)], true).unwrap();
    }
    drop(log);
    let (mut log, recovery) = open_dir(path);
    assert_eq!((recovery.damage, recovery.torn), (Vec::new(), None));
    let mut last = Position::default();
    log.replay(Position::default(), |found| last = found.position).unwrap();
    assert_eq!(
        log.fetch(LINE, seq).unwrap().unwrap().content,
        entry(LINE, seq, 1000).head
    );
    assert_eq!(log.scan(scan(OTHER, 1)).unwrap().found.len(), 30);
    let _ = log.checkpoint(b"one", last.after());
    let _ = log.checkpoint(b"two", last.after());
    if log.release(|_, _, _| true).segments > 0 {
        log.append(&[entry(LINE, seq + 1, 1000)], false).unwrap();
    }
}
