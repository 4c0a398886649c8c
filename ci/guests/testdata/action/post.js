// The post file of the action: it gets the state that the main file saved.
const core = require('@actions/core')
core.info(`state: ${core.getState('left')}`)
