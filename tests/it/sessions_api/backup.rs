//! `rainbow-server backup` beside a running server.

use super::*;

/// `rainbow-server backup` beside this server, into `target`.
fn back_up(world: &World, target: &Path) -> (bool, String) {
    let (target, setup) = (target.to_str().expect("a path of text"), world.dir.setup(&world.backend));
    let outcome = setup.run(&["backup", target]);
    (outcome.status.success(), outcome.text)
}

#[test]
fn a_backup_beside_a_server_under_load_is_what_a_second_server_delivers() {
    let world = world();
    let names: Vec<String> = (0..4).map(|n| format!("user {n}")).collect();
    for name in &names {
        let (client, _) = world.open(name);
        world.gone(client, name);
    }
    let before: Vec<String> = (0..20).map(|n| format!("before {n}")).collect();
    for body in &before {
        assert_eq!(world.send("all", &[("qos", "1")], body)["stored"], 4);
    }
    let backup = DataDir::new();
    let ends = AtomicU32::new(0);
    let (sent, (is_sound, printed)) = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut sent = 0;
            while ends.load(Ordering::Relaxed) == 0 || sent == 0 {
                assert_eq!(world.send("all", &[("qos", "1")], &format!("beside {sent}"))["stored"], 4);
                sent += 1;
            }
            sent
        });
        let printed = back_up(&world, backup.path());
        ends.store(1, Ordering::Relaxed);
        (load.join().expect("every call is answered"), printed)
    });
    assert!(is_sound && printed.contains("4 sessions") && printed.contains("found sound"), "{printed}");
    let second = World { server: backup.setup(&world.backend).start(), backend: naming(), dir: backup };
    for name in &names {
        let (mut client, greeting) = second.open(name);
        let waiting = greeting["waiting"].as_u64().expect("a number") as usize;
        assert!((20..=20 + sent).contains(&waiting), "{waiting} of {sent}");
        let expected = before.iter().cloned().chain((0..waiting - 20).map(|n| format!("beside {n}")));
        assert_eq!(take(&mut client, waiting), expected.collect::<Vec<_>>());
    }
    let (is_sound, printed) = back_up(&world, second.dir.path());
    assert!(!is_sound && printed.contains("it is not empty"), "{printed}");
    assert_eq!(world.send("all", &[("qos", "1")], "after")["stored"], 4, "the first server goes on");
}
