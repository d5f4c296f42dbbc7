//! With a signalling that only takes notes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use ferric_proxy::Location;

use super::edge::Registering;
use super::*;

const REGISTRAR: &str = "[proxy.registrar]\ndomains = [\"example.com\"]\n";

struct Bench {
    home: tempfile::TempDir,
    steering: Arc<Steering>,
    /// What became of the registrar with each configuration that signalling got.
    applied: std::sync::mpsc::Receiver<&'static str>,
}

impl Bench {
    /// `prepare` does something to the data folder before the start.
    fn new(prepare: impl FnOnce(&Path)) -> Bench {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("keys")).unwrap();
        crate::cli::write_key_pair(&home.path().join("keys"), "default").unwrap();
        prepare(home.path());
        let (config, source) = Source::open(None, home.path()).unwrap();
        let (asks, mut questions) = Asks::new();
        let (tell, applied) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut running: Option<Box<dyn Location>> = None;
            while let Some(ask) = questions.blocking_recv() {
                let Ask::Apply(epoch, done) = ask else { continue };
                let (what, ended) = match epoch.registrar {
                    Registering::Off => ("off", running.take()),
                    Registering::By(..) => ("by", None),
                    Registering::On(registrar) => ("on", running.replace(registrar)),
                };
                let _ = (tell.send(what), done.send(ended));
            }
        });
        let (events, _) = broadcast::channel(8);
        let steering = Steering::open(&config, Some(source), &[], false, asks, events, None);
        Bench { home, steering, applied }
    }

    /// What stands in the file beside what holds anyway, and SIGHUP.
    fn reload(&self, more: &str) -> Option<String> {
        let base = Source::open(None, &self.home.path().join("none")).unwrap().1.text;
        std::fs::write(self.home.path().join("ferric.toml"), format!("{base}{more}")).unwrap();
        self.steering.reload();
        self.steering.refused()
    }
}

#[test]
fn versions_that_could_not_be_kept_at_the_start_are_kept_later() {
    let bench = Bench::new(|home| std::fs::write(home.join("config"), "in the way").unwrap());
    assert!(bench.steering.unversioned().unwrap().contains("config"));
    assert_eq!(bench.reload("[proxy]\nrecord_route = true\n"), None, "it holds all the same");
    assert_eq!(bench.steering.lock().number(), 0);
    assert!(bench.steering.unversioned().is_some());
    std::fs::remove_file(bench.home.path().join("config")).unwrap();
    assert_eq!(bench.reload("[proxy]\nrecord_route = false\n"), None);
    assert_eq!(bench.steering.unversioned(), None);
    let state = bench.steering.lock();
    let kept: Vec<_> = state.versions.as_ref().unwrap().list().iter().map(|version| version.by.as_str()).collect();
    assert_eq!(kept, ["start", "sighup"], "what was in force, and what is");
}

#[test]
fn a_registrar_is_opened_before_signalling_hears_of_it_and_closed_behind_it() {
    let bench = Bench::new(|_| {});
    let folder = bench.home.path().join("registrar");
    std::fs::write(&folder, "in the way").unwrap();
    let refused = bench.reload(REGISTRAR).unwrap();
    assert!(refused.contains("nothing changes") && refused.contains("registrar"), "{refused}");
    assert!(bench.applied.try_recv().is_err() && bench.steering.lock().number() == 1, "nothing changed");
    std::fs::remove_file(&folder).unwrap();
    for (more, what) in [(REGISTRAR, "on"), (REGISTRAR, "by"), ("", "off"), (REGISTRAR, "on")] {
        assert_eq!(bench.reload(more), None);
        assert_eq!(bench.applied.recv().unwrap(), what);
    }
    assert!(folder.join("bindings.jsonl").is_file());
}

#[test]
fn a_users_file_that_was_emptied_changes_nothing() {
    let bench = Bench::new(|_| {});
    let users = bench.home.path().join("users.toml");
    std::fs::write(&users, "[[user]]\nname = \"alice\"\npassword = \"secret\"\n").unwrap();
    let text = format!("{REGISTRAR}users = \"users.toml\"\n");
    assert_eq!(bench.reload(&text), None);
    assert_eq!(bench.applied.recv().unwrap(), "on");
    for empty in ["", "# nobody\n", "[[user]]\n"] {
        std::fs::write(&users, empty).unwrap();
        let refused = bench.reload(&text).unwrap();
        assert!(refused.contains("users.toml"), "{refused}");
        assert!(bench.applied.try_recv().is_err(), "signalling hears nothing of it");
    }
    std::fs::remove_file(&users).unwrap();
    assert!(bench.reload(&text).is_some() && bench.applied.try_recv().is_err());
}
