#!/bin/bash
# Sets up the Google side of one deployment. Safe to run again: what is as it should be stays, what differs is put right.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: google-setup.sh --project ID --aws-account NUMBER --bucket NAME --deployment NAME
                       [--location PLACE] [--network NAME] [--dry-run]

  --project      id of the Google Cloud project, e.g. my-project-123; billing must be on
  --aws-account  the 12 digits of the AWS account that runs the functions
  --bucket       Cloud Storage bucket for the associations; made if it does not exist
  --deployment   the template's parameter Deployment: 1 to 16 of a-z, 0-9 and -, starting with a letter
  --location     where a new bucket is made (us-central1)
  --network      the network of the standbys (default)
  --dry-run      look, and say what would be done, but change nothing
TEXT
}

project='' account='' bucket='' deployment='' location=us-central1 network=default dry_run=no
problems=()
while [ $# -gt 0 ]; do
    case $1 in
    --project | --aws-account | --bucket | --deployment | --location | --network)
        if [ $# -lt 2 ]; then
            problems+=("$1 needs a value")
            break
        fi
        case $1 in
        --project) project=$2 ;;
        --aws-account) account=$2 ;;
        --bucket) bucket=$2 ;;
        --deployment) deployment=$2 ;;
        --location) location=$2 ;;
        --network) network=$2 ;;
        esac
        shift 2
        ;;
    --dry-run)
        dry_run=yes
        shift
        ;;
    --help | -h)
        usage
        exit 0
        ;;
    *)
        problems+=("unknown argument: $1")
        shift
        ;;
    esac
done

# Option, value, pattern, what is right.
check() {
    if [ -z "$2" ]; then
        problems+=("missing $1: $4")
    elif ! [[ $2 =~ ^($3)$ ]]; then
        problems+=("$1 is '$2', but must be $4")
    fi
}
check --project "$project" '[a-z][-a-z0-9.:]{4,61}[a-z0-9]' "the id of a Google Cloud project, not its title or number"
check --aws-account "$account" '[0-9]{12}' "12 digits"
check --bucket "$bucket" '[a-z0-9][-_.a-z0-9]{1,61}[a-z0-9]' "3 to 63 of a-z, 0-9, - _ and ."
check --deployment "$deployment" '[a-z]([-a-z0-9]{0,14}[a-z0-9])?' "1 to 16 of a-z, 0-9 and -, starting with a letter"
check --location "$location" '[-a-zA-Z0-9]+' "a region such as us-central1"
check --network "$network" '[a-z]([-a-z0-9]{0,61}[a-z0-9])?' "the name of a network of the project"
[ "$deployment" != default ] || problems+=("--deployment is 'default', which the template refuses: AWS has a schedule group of that name")
if [ ${#problems[@]} -gt 0 ]; then
    printf 'google-setup.sh: %s\n' "${problems[@]}" >&2
    usage >&2
    exit 2
fi
for program in gcloud python3; do
    if ! command -v "$program" >/dev/null; then
        echo "google-setup.sh: $program is missing; nothing was changed. For gcloud see https://cloud.google.com/sdk/docs/install" >&2
        exit 1
    fi
done

lifecycle=$(cd "$(dirname "$0")" && pwd)/bucket-lifecycle.json
answer=$(mktemp -d)
trap 'rm -rf "$answer"' EXIT
export CLOUDSDK_CORE_DISABLE_PROMPTS=1

stop() { # what failed
    {
        echo "FAILED: $1"
        sed 's/^/    gcloud: /' "$answer/error"
        echo "What the lines above report as done stays. Put the cause right and run the same command again: it goes on from there."
    } >&2
    exit 1
}

said() { printf '%-8s %s\n' "$1" "$2"; }

# Runs a reading command. Its output goes to $found; false if the thing certainly does not exist. No answer is not absence: that stops.
found=''
look() { # what, gcloud arguments...
    local what=$1
    shift
    if gcloud "$@" >"$answer/output" 2>"$answer/error"; then
        found=$(<"$answer/output")
        return 0
    fi
    found=''
    grep -Eq 'NOT_FOUND|was not found|could not be found|does not exist|HTTPError 404|not found: 404' "$answer/error" && return 1
    # An API that a dry run did not switch on holds nothing yet.
    [ "$dry_run" = yes ] && grep -Eq 'SERVICE_DISABLED|has not been used in project' "$answer/error" && return 1
    stop "cannot look at $what"
}

# Runs a changing command, or only says so. A new service account takes a while to be known everywhere, so that naming it is repeated.
change() { # what, gcloud arguments...
    local what=$1 deadline=$((SECONDS + ${WARMSPARE_SETUP_PATIENCE:-90}))
    shift
    if [ "$dry_run" = yes ]; then
        said would "$what"
        return
    fi
    until gcloud "$@" >"$answer/output" 2>"$answer/error"; do
        if ! grep -Eiq 'service account .* does not exist|unknown service account' "$answer/error" || [ $SECONDS -ge $deadline ]; then
            stop "$what"
        fi
        sleep 2
    done
    said "done" "$what"
}

keep() { said already "$1"; }

# Makes sure that somebody has a role on something.
bind() { # what, role, member, gcloud command words before get-/add-iam-policy-binding..., --, flags of adding
    local what=$1 role=$2 member=$3 where=() adding=()
    shift 3
    while [ "$1" != -- ]; do
        where+=("$1")
        shift
    done
    shift
    adding=("$@")
    local thing=${where[-1]} words=("${where[@]:0:${#where[@]}-1}")
    # Conditions are left out: a binding with one is somebody else's and may not hold.
    if look "the roles on $thing" "${words[@]}" get-iam-policy "$thing" "--project=$project" --format=json &&
        has_binding "$role" "$member"; then
        keep "$what"
    else
        change "$what" "${words[@]}" add-iam-policy-binding "$thing" "--project=$project" "--role=$role" "--member=$member" "${adding[@]}"
    fi
}

# Whether the policy in $found has it.
has_binding() { # role, member
    python3 -c '
import json, sys
role, member = sys.argv[1:]
bindings = json.load(sys.stdin).get("bindings", [])
sys.exit(not any(b["role"] == role and member in b["members"] and "condition" not in b for b in bindings))
' "$1" "$2" <<<"$found"
}

not_deleted() { # what, state
    [[ $2 != DELETED && $2 != True ]] && return
    echo "$1 was deleted, and Google keeps its name for 30 days; undelete it with gcloud, or use another --deployment" >"$answer/error"
    stop "use $1"
}

# --- 1. APIs
# cloudresourcemanager tells doctor which rights there are; iam makes the roles and the pool, iamcredentials and sts are what the functions sign in with.
look "project $project" projects describe "$project" '--format=value(projectNumber)' || stop "find project $project"
number=$found
look "the APIs" services list --enabled "--project=$project" '--format=value(config.name)' || stop "list the APIs of $project"
enabled=$found
for api in compute storage iam iamcredentials sts cloudbilling cloudresourcemanager; do
    if grep -Fqx "$api.googleapis.com" <<<"$enabled"; then
        keep "API $api is on"
    else
        change "switch on the API $api" services enable "$api.googleapis.com" "--project=$project"
    fi
done

# --- 2. Service account
address=warmspare-$deployment@$project.iam.gserviceaccount.com
if [[ $project == *:* ]]; then # example.com:name
    address=warmspare-$deployment@${project#*:}.${project%%:*}.iam.gserviceaccount.com
fi
if look "service account $address" iam service-accounts describe "$address" "--project=$project" '--format=value(email)'; then
    keep "service account $address"
else
    change "make service account $address" iam service-accounts create "warmspare-$deployment" "--project=$project" \
        "--display-name=warmspare $deployment"
fi

# --- 3. Roles: exactly the calls of shared/platform/src/adapters/compute and of the store
compute_permissions=(
    # read and list; the wait for an operation
    compute.instances.get compute.instances.list compute.instances.getGuestAttributes
    compute.disks.get compute.disks.list compute.zoneOperations.get
    # instances.insert with metadata, labels, a tag, a public address and two disks
    compute.instances.create compute.instances.setMetadata compute.instances.setLabels compute.instances.setTags
    compute.disks.create compute.disks.setLabels compute.disks.use
    compute.subnetworks.use compute.subnetworks.useExternalIp
    # start, stop, setScheduling, setDiskAutoDelete (which changes the disk, too)
    compute.instances.start compute.instances.stop compute.instances.setScheduling
    compute.instances.setDiskAutoDelete compute.disks.update compute.disks.resize
    compute.instances.delete compute.disks.delete
    # what doctor reads: the region with its quota, and whether the machine type exists
    compute.regions.get compute.machineTypes.get
)
# Replacing an object takes storage.objects.delete as well: Google checks it for every overwrite, so that a role without it could write each
# association only once. Source: Cloud Storage docs, IAM permissions, note on replacing objects, read 2026-11. The store itself has no delete.
storage_permissions=(storage.objects.create storage.objects.get storage.objects.list storage.objects.update storage.objects.delete
    # doctor reads the bucket's lifecycle and soft delete
    storage.buckets.get)

custom_role() { # suffix, title, permissions...
    local id=warmspare_${deployment//-/_}_$1 title=$2 wanted has
    shift 2
    wanted=$(printf '%s\n' "$@" | sort)
    if look "role $id" iam roles describe "$id" "--project=$project" '--format=value(deleted)'; then
        not_deleted "role $id" "$found"
        look "role $id" iam roles describe "$id" "--project=$project" '--format=value(includedPermissions)' || stop "read role $id"
        has=$(tr ';, ' '\n' <<<"$found" | sort)
        if [ "$has" = "$wanted" ]; then
            keep "role $id"
        else
            change "set the permissions of role $id" iam roles update "$id" "--project=$project" "--permissions=$(paste -sd, <<<"$wanted")"
        fi
    else
        change "make role $id" iam roles create "$id" "--project=$project" "--title=$title" --stage=GA \
            "--permissions=$(paste -sd, <<<"$wanted")"
    fi
}
custom_role compute "warmspare $deployment: standbys" "${compute_permissions[@]}"
custom_role storage "warmspare $deployment: associations" "${storage_permissions[@]}"
bind "standbys for $address" "projects/$project/roles/warmspare_${deployment//-/_}_compute" "serviceAccount:$address" \
    projects "$project" -- --condition=None

# --- 4. Bucket
# Listed among the project's own: somebody else's bucket of that name is never taken for ours.
settings='--format=value(uniform_bucket_level_access,public_access_prevention,soft_delete_policy.retentionDurationSeconds)'
look "the buckets" storage buckets list "--project=$project" "--filter=name=$bucket" '--format=value(name)' || stop "list the buckets of $project"
if [ "$found" != "$bucket" ]; then
    # Soft delete would bill each overwritten version for 7 days.
    change "make bucket $bucket" storage buckets create "gs://$bucket" "--project=$project" "--location=$location" \
        --uniform-bucket-level-access --public-access-prevention --soft-delete-duration=0 "--lifecycle-file=$lifecycle"
else
    look "bucket $bucket" storage buckets describe "gs://$bucket" "$settings" || stop "read bucket $bucket"
    read -r uniform prevention soft_delete <<<"${found:-none}" || true
    if [ "$uniform" = True ] && [ "$prevention" = enforced ] && [ "${soft_delete:-0}" = 0 ]; then
        keep "bucket $bucket, private, without soft delete"
    else
        change "make bucket $bucket private and switch off soft delete" storage buckets update "gs://$bucket" \
            --uniform-bucket-level-access --public-access-prevention --soft-delete-duration=0
    fi
    look "bucket $bucket" storage buckets describe "gs://$bucket" '--format=json(lifecycle_config)' || stop "read bucket $bucket"
    if python3 -c '
import json, sys
has = (json.load(sys.stdin) or {}).get("lifecycle_config") or {}
sys.exit(has.get("rule") != json.load(open(sys.argv[1]))["rule"])
' "$lifecycle" <<<"$found"; then
        keep "bucket $bucket forgets tombstones after 30 days"
    else
        change "let bucket $bucket forget tombstones after 30 days" storage buckets update "gs://$bucket" "--lifecycle-file=$lifecycle"
    fi
fi
bind "associations in $bucket for $address" "projects/$project/roles/warmspare_${deployment//-/_}_storage" "serviceAccount:$address" \
    storage buckets "gs://$bucket" --

# --- 5. Firewall
# Open to the world, because functions have no fixed address; standbys take keys only. The tag is ComputeSettings::network_tag.
rule=warmspare-$deployment-ssh
wanted="INGRESS $network 0.0.0.0/0 warmspare-standby tcp:22 False"
allows='--format=value[separator=" "](direction,network.basename(),sourceRanges.list(),targetTags.list(),allowed[].map().firewall_rule().list(),disabled)'
if look "firewall rule $rule" compute firewall-rules describe "$rule" "--project=$project" "$allows"; then
    if [ "$found" = "$wanted" ]; then
        keep "firewall rule $rule"
    elif [[ $found != "INGRESS $network "* ]]; then
        echo "it is $found" >"$answer/error"
        stop "firewall rule $rule is for another network or direction, which cannot be changed: delete it first"
    else
        change "set firewall rule $rule" compute firewall-rules update "$rule" "--project=$project" --allow=tcp:22 \
            --source-ranges=0.0.0.0/0 --target-tags=warmspare-standby --no-disabled
    fi
else
    change "make firewall rule $rule" compute firewall-rules create "$rule" "--project=$project" "--network=$network" \
        --direction=INGRESS --allow=tcp:22 --source-ranges=0.0.0.0/0 --target-tags=warmspare-standby
fi

# --- 6. Federation: only the roles of our functions, in the one AWS account
pool=warmspare-$deployment
place=(--location=global "--project=$project")
if look "pool $pool" iam workload-identity-pools describe "$pool" "${place[@]}" '--format=value(state)'; then
    not_deleted "pool $pool" "$found"
    keep "workload identity pool $pool"
else
    change "make workload identity pool $pool" iam workload-identity-pools create "$pool" "${place[@]}" "--display-name=warmspare $deployment"
fi

roles=()
for function in on_gpu_created on_gpu_destroyed mark_gpu_failed vast_webhook api planner sync_tick sweep; do
    roles+=("warmspare-$deployment-$function")
done
quoted=$(printf "'%s', " "${roles[@]}")
condition="assertion.account == '$account' && attribute.aws_role in [${quoted%, }]"
# The role alone is the subject: with the whole ARN a long deployment would come close to the limit of 127 bytes.
mapping="google.subject=assertion.arn.extract('assumed-role/{role}/'),attribute.aws_role=assertion.arn.extract('assumed-role/{role}/')"
place+=("--workload-identity-pool=$pool")
trust=("--account-id=$account" "--attribute-mapping=$mapping" "--attribute-condition=$condition")
if look "provider aws" iam workload-identity-pools providers describe aws "${place[@]}" --format=json; then
    state=$(python3 -c '
import json, sys
has, (account, condition, mapping) = json.load(sys.stdin), sys.argv[1:]
same = (has.get("aws", {}).get("accountId"), has.get("attributeCondition"), has.get("attributeMapping"), has.get("disabled", False)) == (
    account, condition, dict(pair.split("=", 1) for pair in mapping.split(",")), False)
print("DELETED" if has.get("state") == "DELETED" else "same" if same else "differs")
' "$account" "$condition" "$mapping" <<<"$found")
    not_deleted "provider aws of pool $pool" "$state"
    if [ "$state" = same ]; then
        keep "provider aws: account $account, ${#roles[@]} roles"
    else
        change "restrict provider aws to account $account and ${#roles[@]} roles" \
            iam workload-identity-pools providers update-aws aws "${place[@]}" "${trust[@]}" --no-disabled
    fi
else
    change "make provider aws for account $account and ${#roles[@]} roles" \
        iam workload-identity-pools providers create-aws aws "${place[@]}" "${trust[@]}"
fi

for role in "${roles[@]}"; do
    bind "role $role may act as $address" roles/iam.workloadIdentityUser \
        "principalSet://iam.googleapis.com/projects/$number/locations/global/workloadIdentityPools/$pool/attribute.aws_role/$role" \
        iam service-accounts "$address" --
done

cat <<TEXT

Give these to infra/template.yaml; the functions get them as the variables on the right:
  Deployment=$deployment  (WARMSPARE_DEPLOYMENT)
  GcpProject=$project  (WARMSPARE_GCP_PROJECT)
  Bucket=$bucket  (WARMSPARE_BUCKET)
  GcpAudience=//iam.googleapis.com/projects/$number/locations/global/workloadIdentityPools/$pool/providers/aws  (WARMSPARE_GCP_AUDIENCE)
  GcpServiceAccount=$address  (WARMSPARE_GCP_SERVICE_ACCOUNT)
TEXT
