"""Ray on this machine or elsewhere: its session, folder and token, and where trials run."""
