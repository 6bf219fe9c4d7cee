//! What keeps a template from being launched safely. A controller drops what a template does not prompt for, without a word, and then runs on the
//! whole inventory: so everything is looked at before anything is sent.

use super::{
    error::{one_line, short},
    types::Template,
};

/// What a launch needs of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Numeric id of the inventory the hosts are in.
    pub inventory: i64,
    /// The user who read the template is the one who will launch it.
    pub launches: bool,
}

/// Something about a template, in words for those who can mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Nothing may be launched while this is so; otherwise it is a notice.
    pub blocks: bool,
    /// What is wrong, and how to mend it.
    pub message: String,
}

/// Everything that is wrong with a template, the worst first, then notices. No problem blocks: it may be launched.
pub fn preflight(template: &Template, needs: &Needs) -> Vec<Problem> {
    let name = format!("template \"{}\" ({})", short(&template.name), template.id);
    let mut problems = vec![];
    let mut block = |message: String| {
        problems.push(Problem { blocks: true, message: one_line(&message) });
    };

    if !template.ask_limit {
        block(format!("turn on \"Prompt on launch\" for Limit in {name}: without it the job would run on the whole inventory"));
    }
    if !template.ask_variables {
        block(format!(
            "turn on \"Prompt on launch\" for Variables in {name}: without it the job would not know what to do, and the guard would not stop it"
        ));
    }
    match template.inventory {
        Some(id) if id == needs.inventory => {}
        Some(id) => {
            let theirs = short(template.inventory_name.as_deref().unwrap_or_default());
            block(format!(
                "{name} uses inventory \"{theirs}\" ({id}), the connection names inventory {}: set the same inventory in both",
                needs.inventory
            ));
        }
        None => block(format!("set inventory {} in {name}: it has none", needs.inventory)),
    }
    if template.job_type == "check" {
        block(format!("set the job type of {name} to Run: it is Check, which changes nothing on any host"));
    }
    if template.job_slice_count > 1 {
        block(format!("set Job slicing of {name} to 1: it is {}, and slices run independently of each other", template.job_slice_count));
    }
    if !template.survey_required.is_empty() {
        block(format!(
            "the survey of {name} requires {}, which Fettle does not send: make that optional, with a default, or turn the survey off",
            template.survey_required.join(", ")
        ));
    }
    if !template.passwords_needed.is_empty() {
        block(format!(
            "{name} asks for {} at launch: store that in its credential, nobody is there to type it",
            template.passwords_needed.join(", ")
        ));
    }
    if needs.launches && !template.can_launch {
        block(format!("give the user of these credentials the role Execute on {name}: it may see the template, but not launch it"));
    }

    let mut notice = |message: String| {
        problems.push(Problem { blocks: false, message: one_line(&message) });
    };
    if template.allow_simultaneous {
        notice(format!(
            "notice: {name} has \"Concurrent jobs\" on: other people's launches of it may run beside Fettle's, which keeps only its own runs apart"
        ));
    } else {
        notice(format!("notice: {name} has \"Concurrent jobs\" off: runs of it wait for each other in the controller's queue"));
    }
    for (what, tags) in [("runs only tasks tagged", &template.job_tags), ("skips tasks tagged", &template.skip_tags)] {
        if !tags.is_empty() {
            notice(format!("notice: {name} {what} {tags}: the guard must still run"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Template {
        Template {
            id: 9,
            name: "apply".into(),
            inventory: Some(2),
            ask_limit: true,
            ask_variables: true,
            job_type: "run".into(),
            job_slice_count: 1,
            can_launch: true,
            ..Template::default()
        }
    }

    const NEEDS: Needs = Needs { inventory: 2, launches: true };

    fn blocking(template: &Template, needs: &Needs) -> Vec<String> {
        preflight(template, needs).into_iter().filter(|p| p.blocks).map(|p| p.message).collect()
    }

    #[test]
    fn a_good_template_has_only_notices() {
        for allow_simultaneous in [true, false] {
            let template = Template { allow_simultaneous, ..good() };
            assert_eq!(blocking(&template, &NEEDS), Vec::<String>::new());
            assert_eq!(preflight(&template, &NEEDS).len(), 1);
        }
    }

    #[test]
    fn each_fault_is_named_with_its_remedy() {
        type Fault = (fn(&mut Template), &'static str);
        let faults: [Fault; 10] = [
            (|t| t.ask_limit = false, "for Limit in template \"apply\" (9)"),
            (|t| t.ask_variables = false, "for Variables in template \"apply\" (9)"),
            (|t| t.inventory = Some(3), "set the same inventory"),
            (|t| t.inventory = None, "set inventory 2"),
            (|t| t.job_type = "check".into(), "to Run"),
            (|t| t.job_slice_count = 2, "Job slicing"),
            (|t| t.survey_required = vec!["severity".into()], "requires severity"),
            (|t| t.passwords_needed = vec!["ssh_password".into()], "asks for ssh_password"),
            (|t| t.can_launch = false, "role Execute"),
            (|t| t.inventory_name = Some("x".into()), ""),
        ];
        for (break_it, text) in faults {
            let mut template = good();
            break_it(&mut template);
            let found = blocking(&template, &NEEDS);
            if text.is_empty() {
                assert!(found.is_empty(), "{found:?}");
            } else {
                assert!(found.len() == 1 && found[0].contains(text), "{text}: {found:?}");
            }
        }
    }

    #[test]
    fn a_reader_need_not_be_able_to_launch() {
        let template = Template { can_launch: false, ..good() };
        assert!(blocking(&template, &Needs { launches: false, ..NEEDS }).is_empty());
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let found = blocking(&Template::default(), &NEEDS);
        assert_eq!(found.len(), 4, "{found:?}");
    }
}
