//! [`Reason`]: the closed set of reasons of a PatchRun's conditions and phases.

/// Declares the set once: variant, what it means, what a person can do.
macro_rules! reasons {
    ($($name:ident: $meaning:literal, $remedy:literal;)*) => {
        /// Why a run waits, or how a run or a phase ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $(#[doc = $meaning] $name,)*
        }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The word in conditions, events and metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What it means, one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// What a person can do about it; empty when there is nothing to do.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)* }
            }

            /// The reason of that word.
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|reason| reason.as_str() == word)
            }
        }
    };
}

reasons! {
    // waiting, before anything of a phase is launched
    Starting: "The run was seen; what it needs is being looked up.", "";
    Suspended: "`spec.suspend` is true; no further phase starts.", "Set `spec.suspend` to false.";
    Paused: "All launches are paused in the operator's configuration.", "Set `PAUSE` to \"false\" in the ConfigMap `fettle-config`, or correct there what the message names.";
    TooEarly: "`spec.startAfter` has not come.", "";
    ConnectionNotFound: "The `AutomationConnection` does not exist in this namespace.", "Create it, or create a new PatchRun that names another one.";
    ConnectionInvalid: "The `AutomationConnection` cannot be used as it is.", "Read the message; `kubectl describe` the connection.";
    ConnectionChanged: "The connection now leads to another controller, inventory or template than this run was launched with.", "Put it back, or cancel the run.";
    ControllerUnreachable: "The controller does not answer.", "Check url, network and certificate of the connection.";
    AwaitingCredentials: "The credentials of the change phases are not there.", "Create the Secret that the message names; it may be removed after the run.";
    CredentialsRejected: "The controller does not accept the credentials.", "Put a valid token into the Secret that the message names.";
    InventoryUnavailable: "The hosts cannot be looked up.", "Read the message: the connection needs `readCredentials` or `checks.inventory`.";
    HostsBusy: "A host of this run is in another active run.", "Wait for the other run, or cancel it.";
    TemplateNotReady: "The template of the next phase would not do what is asked, so it is not launched.", "Change the template as the message says.";
    TektonNotInstalled: "Read phases need Tekton Pipelines, which this cluster does not have.", "Install Tekton Pipelines (or the OpenShift Pipelines operator).";
    RightsMissing: "Fettle lacks a right in this namespace.", "Run the command in the message.";
    RecordUnavailable: "The record of this run cannot be read, so it is not known whether it ran before.", "Check the fettle-server Deployment.";
    // a phase is under way
    Launching: "The launch is recorded and being carried out.", "";
    LaunchUnknown: "The answer to a direct launch was lost and the job is not found: it is never launched again by itself.", "Look in the controller; cancel the run when nothing runs.";
    Running: "A phase runs.", "";
    CredentialsMissing: "The credentials vanished while a job runs; its end cannot be read.", "Create the Secret that the message names.";
    Cancelling: "The end was asked for; what runs is being stopped.", "";
    TimingOut: "The phase took longer than its timeout; what runs is being stopped.", "";
    Archiving: "The phase is over; its log and record are being written.", "Check the fettle-server Deployment when it lasts.";
    // the end
    Succeeded: "Every host of the scope is proven to have ended well.", "";
    SucceededUnguarded: "Every host has a good summary; the connection says `guard: Optional`, so the guard's proof is missing.", "Use the roles of fettle.patching for the full proof.";
    HostsFailed: "At least one host did not end well.", "Read the host table and the log.";
    HostsUnreachable: "At least one host could not be reached, the others ended well.", "Check the hosts the message names.";
    HostsMissing: "Nothing was reported about at least one host of the scope.", "Check limit and inventory of the job.";
    HostsUnproven: "At least one host has a good summary but no report of the guard.", "Use the roles of fettle.patching, or set `guard: Optional`.";
    OutOfScope: "A host that is not in the scope was touched.", "Read the host table; check the template.";
    ScopeEmpty: "The group has no enabled host.", "Check the group, `groupBy` and the inventory; create a new PatchRun.";
    ScopeTooLarge: "The group has more than 1,000 hosts, or their names do not fit into a limit, or what checks need of them into a ConfigMap.", "Split the group.";
    ScopeSelf: "The scope holds the node this operator runs on.", "Take the node out, or set `allowSelf: true` in a new PatchRun.";
    HostsNotFound: "A host is not in the inventory, or it is disabled there.", "Correct `hosts` in a new PatchRun.";
    HostsAmbiguous: "Two hosts of the scope have names that differ in nothing but letter case.", "Correct the inventory: to Fettle, and to name services, they are one host.";
    StartByPassed: "`spec.startBy` passed before the change phase started; nothing of it was launched.", "Create a new PatchRun with a later `startBy`.";
    Cancelled: "A person asked for the end.", "";
    CancelledElsewhere: "The job was cancelled in the controller.", "Ask who did it; raise `spec.attempt` to run again.";
    TimedOut: "The phase took longer than its timeout and was stopped.", "Raise the timeout in a new PatchRun.";
    LaunchMismatch: "The created job does not match what was asked, so it was cancelled at once.", "Read the message; check the template.";
    LaunchConflict: "Something of the launch's name exists that Fettle did not make.", "Remove or rename it; then raise `spec.attempt`.";
    JobError: "The controller could not carry the job out.", "Read the message and the log.";
    JobLost: "The job vanished from the controller before its end was read.", "Check the hosts; then raise `spec.attempt`.";
    CheckFailed: "The check ended without a result for the hosts.", "Read the log.";
    Detached: "The namespace was deleted while the phase ran; what runs goes on without Fettle.", "Look at the job in the controller; its hosts are unknown.";
    CheckLost: "The check was lost three times to infrastructure failures.", "Read the message; check Tekton and the node.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_fit_a_condition() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
            assert!(!reason.meaning().is_empty());
        }
    }
}
