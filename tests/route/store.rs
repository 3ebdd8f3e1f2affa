//! The command line before a store of its own: from the words of a person to the file, and back.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use strait::control::claims::Claims;
use strait::control::embedded::Embedded;
use strait::control::operator::{COPY_WAIT, Operator, Parts, View};
use strait::control::store::Store;
use strait::model::{Name, Place, RoutePolicy};
use strait::routing::lease::LeaseState;
use strait::routing::record::Book;
use strait::routing::{self, RouteTable, Routes};

use crate::fake::{Relay, err, out};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A relay of unit a with the store of this folder, and the copy of it.
fn start(test: &str) -> (Relay, PathBuf) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("route-{test}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let clock = Arc::new(|| Duration::ZERO);
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&folder.join("routes"), clock, 7).unwrap());
    let table = RouteTable::build(&routing::Settings::default(), &name("a"), &[name("b")]).unwrap();
    let routing = routing::Handle::new(table);
    let (fed, is_fed) = mpsc::channel();
    let (copied, handle) = (Arc::clone(&store), routing.clone());
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut routes = Routes::from_snapshot(&copied.snapshot().await.unwrap());
            handle.replace_routes(&Arc::new(routes.clone()));
            let mut batches = copied.watch(routes.rev()).await.unwrap();
            drop(copied);
            fed.send(()).unwrap();
            while let Some(Ok(batch)) = batches.recv().await {
                routes = routes.apply(&batch).unwrap();
                handle.replace_routes(&Arc::new(routes.clone()));
            }
        });
    });
    is_fed.recv().unwrap();
    let book: Book = serde_json::from_value(serde_json::json!({
        "units": ["a", "b"],
        "dimensions": [{ "name": "cid", "placement": { "claim": [] } }, { "name": "uid" }],
        "rules": [[1, { "dimension": "uid", "unit": "a", "default": true }]],
    }))
    .unwrap();
    let operator = Operator::new(Parts {
        store,
        routing,
        place: Place {
            unit: name("a"),
            relay: name("a-1"),
        },
        configured: Arc::new(move || book.clone()),
        view: Arc::new(|| View {
            store: "embedded at a/a-1".to_owned(),
            is_stale: false,
            unread: None,
            lease: LeaseState::default(),
            now: Duration::ZERO,
        }),
        in_flight_max: Duration::from_secs(10),
        copy_wait: COPY_WAIT * 10,
        claims: Claims::new().0,
        route_policy: Arc::new(|_, _| RoutePolicy::default()),
    });
    (Relay::start(Some(Arc::new(operator))), folder)
}

#[track_caller]
fn says(relay: &Relay, line: &str, code: i32, part: &str) {
    let ran = relay.strait(line);
    let text = format!("{}{}", out(&ran), err(&ran));
    assert!(
        ran.status.code() == Some(code) && text.contains(part),
        "{line}: {:?} {text}",
        ran.status.code()
    );
}

#[test]
fn a_key_goes_from_nobody_to_its_owner_and_on_its_way_to_another() {
    let (relay, _) = start("way");
    says(&relay, "route get --key cid:1=k", 64, "a name may hold");
    says(
        &relay,
        "route publish --dry-run",
        0,
        "rule 1 of uid (default, unit a) is added",
    );
    says(&relay, "route publish", 0, "published at revision 1");
    says(&relay, "route publish", 0, "published already");
    says(&relay, "route get --key cid=k", 2, "no unit has claimed this key");
    says(&relay, "route set --key cid=k --unit b", 0, "claimed");
    says(&relay, "route get --key cid=k", 0, "owner       b");
    says(&relay, "route set --key cid=k --unit a", 2, "strait route move --to a");
    says(
        &relay,
        "route move --key cid=k --to a --dry-run",
        0,
        "cid=k: unit b -> unit a",
    );
    says(&relay, "route moves", 0, "no moves");
    says(&relay, "route move --rule uid=1 --key cid=k --to b", 0, "has begun");
    says(&relay, "route moves", 0, "running");
    says(&relay, "route abort 1", 2, "there is no move 0000000000000001");
    says(&relay, "route status", 0, "at revision 2");
    says(&relay, "route forget b/b-9", 2, "strait route relays");
}

// What an export wrote is what an import takes, also at another relay.
#[test]
fn an_export_can_be_imported_elsewhere() {
    let (relay, folder) = start("export");
    says(&relay, "route publish", 0, "published");
    let file = folder.join("keys.csv");
    std::fs::write(&file, "cid,k1,a\ncid,\"k,2\",b\nuid,9,a\nuid,8,b\ncid,k1,a\n").unwrap();
    let import = |relay: &Relay, more: &[&str]| {
        let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_strait"));
        process
            .args(["route", "import"])
            .arg(&file)
            .args(more)
            .args(["--admin", &relay.address()]);
        let ran = process.output().unwrap();
        (ran.status.code(), out(&ran))
    };
    let (code, text) = import(&relay, &["--dry-run"]);
    assert!(code == Some(2) && text.contains("would be given  2\n"), "{text}");
    let (code, text) = import(&relay, &[]);
    assert_eq!(code, Some(2));
    assert!(
        text.contains("given           2\n") && text.contains("line 4: the key belongs to unit a\n"),
        "{text}"
    );
    let (_, text) = import(&relay, &[]);
    assert!(
        text.contains("given           0\n") && text.contains("there already   4\n"),
        "{text}"
    );
    says(&relay, "route get --key cid=k,2", 0, "owner       b");
    // Decisions are in an export, claims are not.
    let ran = relay.strait("route export --output json");
    assert_eq!(out(&ran).split_whitespace().collect::<String>(), "{\"nodes\":[]}");
}
