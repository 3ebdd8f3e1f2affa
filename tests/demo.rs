//! `strait demo` and `strait call` from outside, as a newcomer meets them: what they print, how they end, and that nothing
//! is left behind (O-N1). The README is followed to the letter.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test ends where it finds something unexpected, and owns its clock"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// A running demo with a temporary folder of its own, so that what it leaves is seen.
struct Demo {
    child: Child,
    out: Option<BufReader<ChildStdout>>,
    folder: PathBuf,
}

impl Demo {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("strait-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_strait"))
            .arg("demo")
            .args(arguments)
            .env("TMPDIR", &folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = child.stdout.take().map(BufReader::new);
        Self { child, out, folder }
    }

    /// Reads up to the line that contains the text, that line included.
    fn until(&mut self, text: &str) -> String {
        let mut read = String::new();
        while !read.contains(text) {
            let line = self.out.as_mut().unwrap().read_line(&mut read).unwrap();
            assert!(line > 0, "the demo ended before {text:?}:\n{read}{}", self.complaints());
        }
        read
    }

    fn complaints(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").arg(format!("-{name}")).arg(pid).status();
        assert!(status.unwrap().success());
    }

    /// Waits for its end; gives its exit code and the rest of what it printed.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        if let Some(mut out) = self.out.take() {
            out.read_to_string(&mut rest).unwrap();
        }
        rest += &self.complaints();
        let code = self.child.wait().unwrap().code();
        self.nothing_is_left();
        (code, rest)
    }

    fn nothing_is_left(&self) {
        let files: Vec<_> = fs::read_dir(&self.folder)
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        assert!(files.is_empty(), "files are left: {files:?}");
        let relays = processes_with(&self.folder);
        assert!(relays.is_empty(), "processes are left: {relays:?}");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Only of a failed test; the others waited for its end.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in processes_with(&self.folder) {
            let _ = Command::new("kill").arg("-KILL").arg(pid.to_string()).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Processes whose command line names a file of this folder.
fn processes_with(folder: &Path) -> Vec<u32> {
    let folder = folder.to_str().unwrap();
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(folder).then_some(pid)
    });
    all.collect()
}

fn strait(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
    command
        .args(arguments)
        .env_remove("STRAIT_CONFIG")
        .env_remove("STRAIT_RELAY");
    command.output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

// O-N1: calls cross, a unit goes away and comes back, all of it counted; and two of them do not meet.
#[test]
fn two_demos_at_once_show_what_they_claim_and_leave_nothing() {
    let begun = Instant::now();
    let people = Demo::start("people", &[]);
    let programs = Demo::start("programs", &["--output", "json"]);
    let (code, told) = people.end();
    assert_eq!(code, Some(0), "{told}");
    for text in [
        "360 of 360 calls answered",
        "strait-error: unit_away; unit=a; relay=a-1",
        "services of the other units could call its keys again",
        "strait route move --key im.room=lobby --to b",
        "strait-error: routes_away; unit=a; relay=a-1",
        "1,000 more for unit c were accepted since, and wait on the disk of relay a-1",
        "rate that is set for the replay      500 messages a second",
        "this subscriber cannot read the message",
        "What the relays accepted for other units",
        "PUBLISHED  DELIVERED  LOST  TWICE  OUT OF ORDER",
        "All of this was checked",
    ] {
        assert!(told.contains(text), "{text:?} is missing in:\n{told}");
    }
    assert!(!told.contains('\u{1b}'), "colours are for terminals:\n{told}");
    let (code, told) = programs.end();
    assert_eq!(code, Some(0), "{told}");
    let document: Value = serde_json::from_str(&told).unwrap();
    let crossing = document["crossing"].as_array().unwrap();
    assert_eq!(crossing.len(), 9);
    assert!(crossing.iter().all(|row| row["by_owner"] == row["calls"]), "{told}");
    check_messages(&document["messages"]);
    check_routes(&document);
    assert!(begun.elapsed() < LIMIT, "two demos took {:?}", begun.elapsed());
}

// R-3.9, R-3.12, R-I1: a conversation moved under the writes of both units, and calls went on without the routes.
fn check_routes(document: &Value) {
    let moved = &document["moved"];
    let owners = moved["owners"].as_array().unwrap();
    assert_eq!(
        (&owners[0]["unit"], &owners[1]["unit"]),
        (&"a".into(), &"b".into()),
        "{moved}"
    );
    assert!(owners[0]["epoch"].as_u64() < owners[1]["epoch"].as_u64(), "{moved}");
    let without = &document["without_routes"];
    for writes in [moved, &without["writes"]] {
        assert!(writes["acknowledged"].as_u64() > Some(100), "{writes}");
        for fault in ["lost", "doubled", "reordered", "refused"] {
            assert_eq!(writes[fault], 0, "{fault}: {writes}");
        }
    }
    let calls = without["calls"].as_array().unwrap();
    assert!(
        calls.len() == 9 && calls.iter().all(|row| row["by_owner"] == row["calls"]),
        "{without}"
    );
}

// M-C1, M-D2, M-E4, M-F1, M-G8, as programs read it.
fn check_messages(messages: &Value) {
    let count = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number in {messages:#}"));
    let ledger = &messages["ledger"];
    assert!(count(&ledger["published"]) > 1000, "{ledger}");
    assert_eq!(ledger["published"], ledger["delivered"]);
    assert_eq!((&ledger["lost"], &ledger["out_of_order"]), (&0.into(), &0.into()));
    assert_eq!(ledger["redriven_late"], 1);

    let replay = &messages["replay"];
    assert!(count(&replay["backlog"]) >= 1000, "{replay}");
    assert_eq!(replay["limit_per_second"], 500.0);
    assert!(replay["seen_per_second"].as_f64().unwrap() <= 550.0, "{replay}");
    for times in ["live_before", "live_during"] {
        assert!(count(&replay[times]["messages"]) > 0, "{replay}");
    }

    let letter = &messages["dead_letter"];
    assert_eq!(
        (&letter["reason"], &letter["place"]),
        (&"terminated".into(), &"delivery".into())
    );
    let redrive = &messages["redrive"];
    assert_eq!((&redrive["state"], &redrive["moved"]), (&"done".into(), &1.into()));

    let books = messages["books"].as_array().unwrap();
    assert_eq!(books.len(), 9, "six ways between units, three groups: {books:#?}");
    for row in books {
        let ended = ["relayed", "pending", "expired", "dropped", "dead_lettered", "purged"];
        let ended: u64 = ended.iter().map(|name| count(&row[name])).sum();
        assert_eq!(
            (count(&row["accepted"]), &row["difference"]),
            (ended, &0.into()),
            "{row}"
        );
        let from = row["relay"].as_str().unwrap().trim_end_matches("-1");
        let pairs = ledger["pairs"].as_array().unwrap();
        if let Some(pair) = pairs
            .iter()
            .find(|pair| pair["from"] == from && pair["owner"] == row["to"])
        {
            assert_eq!(row["relayed"], pair["delivered"], "{row}");
        }
    }
}

// Ctrl-C at any time: before the relays run, while calls and messages cross, while a unit is away or coming back.
#[test]
fn a_demo_that_is_stopped_leaves_nothing() {
    for (signal, moment) in [
        ("INT", "Strait demo"),
        ("TERM", "Calls cross"),
        ("INT", "Messages cross"),
        ("INT", "The relay that keeps the routes"),
        ("HUP", "Unit c goes away"),
        ("TERM", "Unit c comes back"),
    ] {
        let mut demo = Demo::start("stopped", &[]);
        demo.until(moment);
        demo.signal(signal);
        let (code, told) = demo.end();
        assert_eq!(code, Some(1), "{moment}: {told}");
        assert!(told.contains(&format!("stopped by SIG{signal}")), "{told}");
    }
}

// A reader that goes away (`strait demo | head -1`) is no reason to leave relays behind.
#[test]
fn a_demo_that_nobody_reads_leaves_nothing() {
    let mut demo = Demo::start("unread", &[]);
    demo.until("Strait demo");
    demo.out = None;
    let (_, complaints) = demo.end();
    assert_eq!(complaints, "");
}

// The tour of the README, with the addresses of a demo that was left running; and what the demo itself tells to try.
#[test]
fn calls_and_messages_from_the_shell_and_calls_from_python_work_against_a_demo_that_is_kept() {
    let mut demo = Demo::start("kept", &["--keep"]);
    let told = demo.until("python3 -c");
    let address = |kind: &str| {
        let line = told.lines().find(|line| line.contains("unit a   gRPC")).unwrap();
        let (_, rest) = line.split_once(kind).unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    };
    let (grpc, framed) = (address("gRPC "), address("framed "));
    check_calls(&grpc, &framed);
    check_printed(&told);
    check_python(grpc.strip_prefix("http://").unwrap());
    demo.signal("INT");
    let (code, rest) = demo.end();
    assert_eq!(code, Some(0), "{rest}");
}

fn check_calls(grpc: &str, framed: &str) {
    for relay in [framed, grpc] {
        let key = "im.conversation=cid:3001";
        let said = strait(&["call", "im.Echo/Say", "--key", key, "--data", "hello", "--relay", relay]);
        assert_eq!(said.status.code(), Some(0), "{}", err(&said));
        assert_eq!(out(&said), "unit c heard: hello");
        assert!(err(&said).contains("answered by unit c in "), "{}", err(&said));

        let said = strait(&[
            "call",
            "im.Presence/Where",
            "--unit",
            "b",
            "--relay",
            relay,
            "--output",
            "json",
        ]);
        assert_eq!(said.status.code(), Some(0), "{}", err(&said));
        let document: Value = serde_json::from_str(&out(&said)).unwrap();
        assert_eq!(
            (&document["unit"], &document["body"]),
            (&"b".into(), &"unit b heard: ".into())
        );

        // The relay refuses: 2, and says who, why and what to do.
        let said = strait(&["call", "im.Echo/Say", "--data", "hello", "--relay", relay]);
        assert_eq!(
            (said.status.code(), out(&said)),
            (Some(2), String::new()),
            "{}",
            err(&said)
        );
        for text in ["no_route", "relay a-1 of unit a", "--key"] {
            assert!(err(&said).contains(text), "{text:?} is missing in:\n{}", err(&said));
        }
        let said = strait(&[
            "call",
            "im.None/Say",
            "--key",
            key,
            "--relay",
            relay,
            "--output",
            "json",
        ]);
        assert_eq!(said.status.code(), Some(2), "{}", err(&said));
        let document: Value = serde_json::from_str(&out(&said)).unwrap();
        assert_eq!(document["error"]["reason"], "unknown_service");
        assert_eq!(document["error"]["unit"], "c");
    }
    check_calls_that_fail(framed);
}

/// The commands that the demo prints work as they are printed.
fn check_printed(told: &str) {
    let program = env!("CARGO_BIN_EXE_strait");
    let printed: Vec<&str> = told
        .lines()
        .filter_map(|line| line.trim().strip_prefix(program))
        .collect();
    let find = |words: &str| {
        let found = printed.iter().find(|line| line.trim().starts_with(words));
        *found.unwrap_or_else(|| panic!("{words:?} is not among {printed:#?}"))
    };
    let command = |arguments: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {program}{arguments}")]);
        command.env_remove("STRAIT_RELAY").env_remove("STRAIT_RELAY_GRPC");
        command
    };
    let run = |arguments: &str| {
        let said = command(arguments).output().unwrap();
        assert_eq!(said.status.code(), Some(0), "{arguments}: {}{}", out(&said), err(&said));
        out(&said)
    };
    for call in printed.iter().filter(|line| line.trim().starts_with("call ")) {
        assert!(run(call).contains("heard: hello"), "{call}");
    }

    let moved = run(find("route move"));
    assert!(moved.contains("moved"), "{moved}");
    let again = printed.iter().filter(|line| line.trim().starts_with("call im.Room"));
    assert!(again.map(|call| run(call)).all(|said| said == "unit b heard: hello"));
    let history = run(find("route history"));
    assert!(history.contains("curiosity") || history.contains("unit b"), "{history}");
    assert!(run(find("unit drain")).contains("nothing was changed"));

    // Before there is a group without a consumer.
    let hello = printed.iter().find(|line| line.ends_with("--body hello")).unwrap();
    let delivered = run(&format!("{hello} --wait delivered"));
    assert!(delivered.contains("DELIVERED"), "{delivered}");

    // A group gets what is published from its first subscription on, so publish until it has come.
    let mut subscriber = command(&format!("{} --count 1", find("subscribe")));
    let mut subscriber = subscriber.stdout(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while subscriber.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < LIMIT, "nothing came to {}", find("subscribe"));
        run(hello);
    }
    let received = subscriber.wait_with_output().unwrap();
    assert_eq!(
        (received.status.code(), out(&received)),
        (Some(0), "hello\n".to_owned())
    );

    run(printed.iter().find(|line| line.ends_with("--body poison")).unwrap());
    let begun = Instant::now();
    while !run(find("dlq list")).contains("terminated") {
        assert!(begun.elapsed() < LIMIT, "no dead letter");
    }
    let redriven = run(find("dlq redrive"));
    assert!(redriven.contains("done"), "{redriven}");
    let status = run(find("queue status"));
    assert!(status.contains("im.events") && status.contains("archive"), "{status}");
    assert!(run(find("audit")).contains("the books balance"));
}

fn check_calls_that_fail(framed: &str) {
    let file = std::env::temp_dir().join(format!("strait-message-{}", std::process::id()));
    fs::write(&file, [0xff, 0x00]).unwrap();
    let path = file.to_str().unwrap();
    let arguments = [
        "call",
        "im.Echo/Say",
        "--unit",
        "a",
        "--relay",
        framed,
        "--output",
        "json",
        "--data-file",
    ];
    let said = strait(&[arguments.as_slice(), &[path]].concat());
    fs::remove_file(&file).unwrap();
    let document: Value = serde_json::from_str(&out(&said)).unwrap();
    assert!(document["body_hex"].as_str().unwrap().ends_with("ff00"), "{document}");

    // No relay there: 1. A port of the wrong protocol: 1, and not for ever.
    let said = strait(&["call", "im.Echo/Say", "--relay", "tcp://127.0.0.1:1"]);
    assert_eq!(said.status.code(), Some(1), "{}", err(&said));
    assert!(err(&said).contains("start the relay"), "{}", err(&said));
    let said = strait(&["call", "im.Echo/Say", "--relay", framed, "--grpc", "--timeout", "1s"]);
    assert_eq!(said.status.code(), Some(1), "{}", err(&said));
    let said = strait(&["call", "im.Echo/Say", "--timeout", "soon"]);
    assert_eq!(said.status.code(), Some(64), "{}", err(&said));
}

fn check_python(grpc: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let interpreter =
        std::env::var_os("STRAIT_TEST_PYTHON").map_or_else(|| root.join("target/venv/bin/python"), PathBuf::from);
    assert!(
        interpreter.exists(),
        "{} is missing: run `tests/run prepare` once, it installs grpcio there",
        interpreter.display()
    );
    let [program] = blocks("python").try_into().unwrap();
    let said = Command::new(interpreter).args(["-c", &program, grpc]).output().unwrap();
    assert!(said.status.success(), "{}", err(&said));
    for text in [
        "cid:1001 was answered by unit a: unit a heard: hello",
        "cid:3001 was answered by unit c: unit c heard: hello",
        "said by the relay, not by the service: no_route; unit=a; relay=a-1",
    ] {
        assert!(out(&said).contains(text), "{text:?} is missing in:\n{}", out(&said));
    }
}

// A configuration in the README that is refused costs a newcomer his first evening.
#[test]
fn the_configurations_of_the_readme_are_right() {
    let [a, b, identities, messages, away, routes, hooks, calls, tokens, access] = blocks("toml").try_into().unwrap();
    let a = format!("{a}\n{identities}\n{messages}\n{away}");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("readme");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let certificates = folder.join("certs");
    let certificates = certificates.to_str().unwrap();
    let made = strait(&[
        "cert",
        "dev",
        "--dir",
        certificates,
        "--unit",
        "cn-east/a/a-1",
        "--unit",
        "sg/b/b-1",
    ]);
    assert!(made.status.success(), "{}", err(&made));
    for (name, text, key) in [("a.toml", a, "cid:2001"), ("b.toml", b, "cid:2001")] {
        let file = folder.join(name);
        fs::write(&file, &text).unwrap();
        let file = file.to_str().unwrap();
        let checked = strait(&["config", "check", "--config", file]);
        assert!(checked.status.success(), "{name}: {}", err(&checked));
        for path in text
            .lines()
            .filter_map(|line| line.split('"').find(|part| part.starts_with("certs/")))
        {
            assert!(folder.join(path).exists(), "{name}: {path}");
        }
        let key = format!("im.conversation={key}");
        let explained = strait(&["explain", "--config", file, "--key", &key]);
        assert!(out(&explained).contains("owner        b"), "{}", out(&explained));
    }
    // The hooks belong to the dimension that is described before.
    let hooks: Vec<_> = hooks.lines().filter(|line| line.starts_with("hooks")).collect();
    assert_eq!(hooks.len(), 1, "{hooks:?}");
    let secret = folder.join("token.keys");
    assert!(strait(&["token-key", secret.to_str().unwrap()]).status.success());
    let with_routes = [
        &fs::read_to_string(folder.join("a.toml")).unwrap(),
        &routes,
        hooks[0],
        "\n",
        &tokens,
        &access,
    ]
    .concat()
    .replace("dimensions = [", "dimensions = [\"im.user\", ")
    .replace("[relay]\n", "[relay]\naccess = [\"wss://a.example.com/ws\"]\n");
    let file = folder.join("routes.toml");
    fs::write(&file, with_routes + &calls).unwrap();
    let checked = strait(&["config", "check", "--config", file.to_str().unwrap()]);
    assert!(checked.status.success(), "{}", err(&checked));
}

// Commands that the README shows exist, with these options.
#[test]
fn the_commands_of_the_readme_exist() {
    let lines: Vec<String> = blocks("sh")
        .iter()
        .flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let help = out(&strait(&["call", "--help"]));
    let calls: Vec<&String> = lines.iter().filter(|line| line.starts_with("strait call")).collect();
    assert!(calls.len() > 5);
    for option in calls
        .iter()
        .flat_map(|line| line.split_whitespace())
        .filter(|word| word.starts_with("--"))
    {
        assert!(help.contains(option), "{option} is not an option of strait call");
    }
    let commands = out(&strait(&["--help"]));
    for line in lines.iter().filter(|line| line.starts_with("strait ")) {
        let command = line.split_whitespace().nth(1).unwrap();
        assert!(commands.contains(&format!("\n  {command}")), "{command} is no command");
    }
}

/// Fenced blocks of the README in a language.
fn blocks(language: &str) -> Vec<String> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let fence = format!("```{language}\n");
    let blocks = readme
        .split(&fence)
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().to_owned());
    blocks.collect()
}
