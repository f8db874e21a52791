//! What is on the screen.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

use super::change::TopChange;
use super::model::{KeyAction, Model};
use super::source::Update;
use super::theme::Theme;
use super::view;
use crate::control::api::times::Times;
use crate::control::api::types::{
    Condition, DaemonState, DeniedInfo, ExportCounters, ExportInfo, Initiator, InterfaceInfo, LogLine,
    LogLines,
};
use crate::metrics::Counts;

fn export(slot: u32, reads: u64, state: Condition) -> ExportInfo {
    let name = format!("e1.{slot}");
    ExportInfo {
        vlan: "untagged".into(),
        state,
        reason: (state == Condition::Failed).then(|| "no such file or directory".into()),
        size_bytes: (state != Condition::Failed).then_some(8 << 30),
        store: "mmap".into(),
        path: format!("/srv/aoe/{name}.raw"),
        interfaces: vec!["eth1".into()],
        counters: ExportCounters {
            counts: Counts {
                reads,
                read_bytes: reads * 4096,
                ..Counts::default()
            },
            read_time: Times {
                buckets: vec![(64, reads)],
                sum_us: reads * 50,
            },
            ..ExportCounters::default()
        },
        initiators: vec![Initiator {
            initiator: "02:00:00:00:00:01".into(),
            reads,
            read_bytes: reads * 4096,
            idle_seconds: Some(0.2),
            ..Initiator::default()
        }],
        export: name,
        ..ExportInfo::default()
    }
}

/// After this many seconds.
fn state(seconds: u64) -> DaemonState {
    DaemonState {
        version: "0.1.0".into(),
        pid: 7,
        uptime_seconds: 100.0 + seconds as f64,
        healthy: false,
        problems: vec!["e1.10: no such file or directory".into()],
        exports: vec![
            export(1, 1000 * seconds, Condition::Ready),
            export(10, 0, Condition::Failed),
            export(2, 25_000 * seconds, Condition::Ready),
        ],
        interfaces: vec![InterfaceInfo {
            interface: "eth1".into(),
            mode: Some("native XDP, zero-copy".into()),
            mac: Some("02:00:00:00:01:00".into()),
            mtu_bytes: Some(9000),
            exports: 2,
            queues: vec![[("frames".to_owned(), 26_000 * seconds)].into()],
            ..InterfaceInfo::default()
        }],
        denied: vec![DeniedInfo {
            interface: "eth1".into(),
            source: "02:00:00:00:00:66".into(),
            export: "e1.1".into(),
            frames: 42,
            idle_seconds: 3.0,
        }],
        ..DaemonState::default()
    }
}

fn log(numbers: std::ops::RangeInclusive<u64>) -> LogLines {
    let line = |number| LogLine {
        number,
        time: 1_700_000_000.0 + number as f64,
        level: if number == 2 { "error" } else { "info" }.into(),
        text: format!("message {number}"),
    };
    LogLines {
        last: *numbers.end(),
        lines: numbers.map(line).collect(),
    }
}

/// Two seconds after the start of `top`.
fn model() -> Model {
    let mut model = Model::default();
    for seconds in 0..3 {
        let lines = log(seconds + 1..=seconds + 1);
        model.update(Update::State(Box::new(state(seconds)), lines));
    }
    model
}

fn press(model: &mut Model, keys: &str) -> KeyAction {
    let mut wish = KeyAction::None;
    for letter in keys.chars() {
        let code = match letter {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\t' => KeyCode::Tab,
            letter => KeyCode::Char(letter),
        };
        wish = model.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
    wish
}

fn draw(model: &Model, width: u16, height: u16, theme: Theme) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, model, theme)).unwrap();
    terminal
}

/// The lines of a small screen, without the spaces at their ends.
fn lines(model: &Model) -> Vec<String> {
    let terminal = draw(model, 60, 15, Theme::new(true));
    let buffer = terminal.backend().buffer();
    let line =
        |row: &[ratatui::buffer::Cell]| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>();
    let rows = buffer.content.chunks(usize::from(buffer.area.width));
    rows.map(|row| line(row).trim_end().to_owned()).collect()
}

#[test]
fn exports_on_a_small_screen() {
    let expected = [
        " xblade 0.1.0  2/3 ready  up 1m 42s  DEGRADED",
        " 1 Exports  2 Initiators  3 Interfaces  4 Denied  5 Log",
        " EXPORT   STATE      r/s rMiB/s    w/s wMiB/s     p99 TREND",
        " e1.1     ready     1000    3.9      0      0    64us    ██",
        " e1.2     ready      25k     98      0      0    64us    ██",
        " e1.10    FAILED       0      0      0      0       -",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        " /srv/aoe/e1.1.raw, mmap, rw any, on eth1",
        " q end  s sort  r reverse  / filter  p pause  ? keys",
    ];
    assert_eq!(lines(&model()), expected);
}

#[test]
fn each_tab_shows_what_it_is_about() {
    let mut model = model();
    for (key, expected) in [
        ("2", " e1.1     02:00:00:00:00:01   1000    3.9      0 0s"),
        ("3", " eth1      waiting     26k       0      0 native XDP, zero…"),
        ("4", " 02:00:00:00:00:66 eth1      e1.1           42 3s"),
        ("5", " 22:13:23Z INFO  message 3"),
    ] {
        press(&mut model, key);
        assert_eq!(lines(&model)[3], expected);
    }
    press(&mut model, "\t");
    assert!(lines(&model)[3].starts_with(" e1.1"), "and round again");
}

#[test]
fn rows_are_sorted_filtered_and_followed() {
    let mut model = model();
    press(&mut model, "ssr");
    let screen = lines(&model);
    assert!(
        screen[3].starts_with(" e1.2 ") && screen[4].starts_with(" e1.1 "),
        "{screen:#?}"
    );
    // The second row is chosen, and stays so when it comes to another place.
    press(&mut model, "jr");
    assert!(lines(&model)[13].starts_with(" /srv/aoe/e1.1.raw"));
    press(&mut model, "/NO SUCH");
    let screen = lines(&model);
    assert!(
        screen[3].starts_with(" e1.10") && screen[4].is_empty(),
        "{screen:#?}"
    );
    assert_eq!(screen[13], " /srv/aoe/e1.10.raw: no such file or directory");
    assert!(screen[14].starts_with(" /NO SUCH"));
    press(&mut model, "q\n");
    assert_eq!(model.filter, "NO SUCHq", "a key that is typed is no command");
    assert_eq!(lines(&model)[3], " none with this text");
    press(&mut model, "\x1b");
    assert!(lines(&model)[5].starts_with(" e1.2"));
    assert_eq!(press(&mut model, "q"), KeyAction::Quit);
}

#[test]
fn an_export_is_paused_once_that_is_confirmed() {
    let mut model = model();
    press(&mut model, "jp");
    assert_eq!(
        lines(&model)[14],
        " pause e1.2 (it answers nobody)? y: yes, any other: no"
    );
    assert_eq!(press(&mut model, "q"), KeyAction::None, "any other key is no");
    assert_eq!(
        press(&mut model, "y"),
        KeyAction::None,
        "nothing is asked any more"
    );
    let change = |pauses| TopChange {
        export: "e1.2".into(),
        has_namesakes: false,
        pauses,
    };
    assert_eq!(press(&mut model, "py"), KeyAction::Change(change(true)));
    model.notice = Some("paused e1.2".into());
    assert_eq!(lines(&model)[13], " paused e1.2");
    let mut paused = state(3);
    paused.exports[2].state = Condition::Paused;
    model.update(Update::State(Box::new(paused), log(4..=4)));
    press(&mut model, "p");
    assert!(lines(&model)[14].starts_with(" serve e1.2 again? y"));
    assert_eq!(press(&mut model, "y"), KeyAction::Change(change(false)));
    let mut twice = state(4);
    twice.exports.push(ExportInfo {
        vlan: "5".into(),
        ..export(1, 0, Condition::Ready)
    });
    model.update(Update::State(Box::new(twice), log(5..=5)));
    press(&mut model, "gp");
    assert!(lines(&model)[14].starts_with(" pause e1.1 on all its VLANs"));
    press(&mut model, "n");
    // Only what is on the screen can be meant.
    assert_eq!(press(&mut model, "2py"), KeyAction::None);
    model.update(Update::Gone("nobody listens".into()));
    assert_eq!(press(&mut model, "1py"), KeyAction::None);
}

#[test]
fn a_target_that_goes_and_comes_back_is_told() {
    let mut model = model();
    model.update(Update::Gone("nobody listens".into()));
    let screen = lines(&model);
    assert_eq!(screen[0], " NO ANSWER, trying again: nobody listens");
    assert!(screen[3].starts_with(" e1.1"), "what was known last stays");
    // Another process: counters and log begin anew.
    let again = DaemonState {
        pid: 8,
        uptime_seconds: 1.0,
        ..state(0)
    };
    model.update(Update::State(Box::new(again), log(1..=1)));
    let screen = lines(&model);
    assert!(screen[0].contains("up 1s"), "{screen:#?}");
    assert!(screen[3].contains(" 0      0      0      0"), "{screen:#?}");
    press(&mut model, "5");
    let screen = lines(&model);
    assert!(
        screen[3].ends_with("message 1") && screen[4].is_empty(),
        "{screen:#?}"
    );
}

#[test]
fn without_colour_nothing_is_told_by_colour_alone() {
    let mut model = model();
    press(&mut model, "jj");
    for has_colour in [true, false] {
        let terminal = draw(&model, 60, 15, Theme::new(has_colour));
        let cells = &terminal.backend().buffer().content;
        let coloured = cells
            .iter()
            .filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        assert_eq!(coloured.count() > 0, has_colour);
        let row = &cells[60 * 5..60 * 6];
        assert!(row.iter().all(|cell| cell.modifier.contains(Modifier::REVERSED)));
    }
}

#[test]
fn any_size_can_be_drawn() {
    let mut model = model();
    press(&mut model, "?");
    for (width, height) in [(1, 1), (5, 3), (20, 5), (60, 15), (120, 40), (300, 100)] {
        draw(&model, width, height, Theme::new(true));
    }
    assert!(lines(&model).iter().any(|line| line.contains("Ctrl-Z")));
    press(&mut model, "q");
    assert!(!model.shows_help, "any key ends the help and does nothing else");
    let terminal = draw(&model, 120, 40, Theme::new(true));
    let screen = terminal.backend().to_string();
    for word in ["e1.1 reads, highest 3.9 MiB/s", "aqu-sz", "8 GiB"] {
        assert!(screen.contains(word), "{word} is not in\n{screen}");
    }
    assert!(!Model::default().grid().heads.is_empty());
    draw(&Model::default(), 60, 15, Theme::new(true));
}
