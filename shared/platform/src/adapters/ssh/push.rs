//! Puts the agent on a standby, named by the hash of its content.

use tokio::time::timeout;
use warmspare_domain::observed::Endpoint;

use super::SshAgents;
use crate::ports::AgentError;

/// Where an agent of this version lives, relative to the login's home.
pub(super) fn remote_path(version: &str) -> String {
    format!(".warmspare/agent-{version}")
}

impl SshAgents {
    /// Puts our version there unless it is there. A push that breaks off leaves nothing under the agent's name.
    pub(super) async fn push(&self, standby: &Endpoint) -> Result<(), AgentError> {
        let slot = self.connections.slot(standby);
        let pushing = async {
            // Many calls may find it missing at once; one of them puts it there.
            let _alone = slot.pushing.lock().await;
            if self.connections.has_agent(standby, &self.version) {
                return Ok(());
            }
            let path = remote_path(&self.version);
            if !self.run(standby, &format!("test -x {path}"), b"").await?.succeeded() {
                self.upload(standby, &path).await?;
            }
            self.connections.note_agent(standby, &self.version);
            Ok(())
        };
        timeout(self.settings.limits.push, pushing).await.unwrap_or_else(|_| {
            self.connections.forget(standby);
            Err(AgentError::Unreachable {
                address: standby.address.clone(),
                detail: "the agent could not be pushed in time".to_owned(),
            })
        })
    }

    async fn upload(&self, standby: &Endpoint, path: &str) -> Result<(), AgentError> {
        let fresh = format!(".warmspare/new-{}", uuid::Uuid::new_v4().simple());
        let version = &self.version;
        // Only our own hexadecimal digits are part of this command. The newest three versions stay, ours among them: another control plane may be in
        // the middle of a deploy. Tidying up may fail; the agent is there then all the same.
        let command = format!(
            "mkdir -p .warmspare && chmod 700 .warmspare && cat > {fresh} && \
             [ \"$(sha256sum < {fresh} | cut -c 1-{digits})\" = {version} ] && chmod 755 {fresh} && mv {fresh} {path} \
             || {{ rm -f {fresh}; exit 1; }}; \
             ls -t .warmspare/agent-* | tail -n +4 | xargs -r rm -f; find .warmspare -name 'new-*' -mmin +60 -delete; true",
            digits = version.len()
        );
        let output = self.run(standby, &command, &self.binary).await?;
        if output.succeeded() {
            return Ok(());
        }
        let detail = format!(
            "it could not be put there ({}): {}",
            output.status_words(),
            output.stderr_tail()
        );
        Err(AgentError::Broken { detail })
    }
}
